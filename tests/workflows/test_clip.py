"""The ComfyUI graph that `generate` writes into its files; tests/comfyui runs it."""

import argparse
import json

import pytest

from unet_motion.cli import build_parser, main
from unet_motion.cli.generate import describe
from unet_motion.video import read_graphs
from unet_motion.workflows.clip import clip_graph, no_graph


def settings_of(*arguments, prompt="a red star moving left"):
    args: argparse.Namespace = build_parser("generate").parse_args(["generate", prompt, *arguments])
    return describe(args)


def values(workflow, kind):
    """The widgets' values of the nodes of a kind."""
    return [node["widgets_values"] for node in workflow["nodes"] if node["type"] == kind]


def test_the_settings_stand_in_the_widgets_in_the_pages_order():
    settings = settings_of(
        "--negative", "blue", "--seed", "7", "--steps", "12", "--guidance", "4.5", "--frames", "9", "--width", "72",
        "--height", "48", "--scale", "3", "--filter", "nearest", "--fps", "12", "--sampler", "euler",
    )  # fmt: skip
    workflow = clip_graph(settings, "mp4", 90).workflow()
    assert values(workflow, "CLIPTextEncode") == [["a red star moving left"], ["blue"]]
    assert values(workflow, "EmptyLatentImage") == [[72, 48, 9]]
    assert values(workflow, "KSampler") == [[7, "fixed", 12, 4.5, "euler", "normal", 1.0]]
    assert values(workflow, "ImageScale") == [["nearest-exact", 216, 144, "disabled"]]
    assert values(workflow, "UNetMotion_SaveClip") == [["UNetMotion", "mp4", 12.0, 90]]


def test_the_two_texts_are_told_apart_by_their_titles_and_other_nodes_have_none():
    graph = clip_graph(settings_of("--freeu", "0.9,0.2,1.2,1.4"), "webp")
    nodes = graph.workflow()["nodes"]
    assert [node.get("title") for node in nodes if node["type"] == "CLIPTextEncode"] == ["Prompt", "Negative prompt"]
    assert not any("title" in node for node in nodes if node["type"] != "CLIPTextEncode")
    shown = {node["id"]: node.get("title", node["type"]) for node in nodes}
    assert {int(number): node["_meta"]["title"] for number, node in graph.prompt().items()} == shown


def test_every_link_joins_an_output_to_an_input_and_both_know_it():
    workflow = clip_graph(settings_of("--freeu", "0.9,0.2,1.2,1.4"), "webp").workflow()
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(workflow["links"]) == sum(len(node["inputs"]) for node in nodes.values()) == workflow["last_link_id"]
    for number, source, output, target, place, kind in workflow["links"]:
        given, taken = nodes[source]["outputs"][output], nodes[target]["inputs"][place]
        assert number in given["links"] and taken["link"] == number and given["type"] == taken["type"] == kind


def test_freeu_gets_a_node_between_model_and_sampler():
    graph = clip_graph(settings_of("--freeu", "0.9,0.2,1.2,1.4"), "webp").prompt()
    (sampler,) = (node for node in graph.values() if node["class_type"] == "KSampler")
    freeu = graph[sampler["inputs"]["model"][0]]
    assert freeu["class_type"] == "UNetMotion_FreeU" and freeu["inputs"]["preset"] == "custom"
    assert [freeu["inputs"][name] for name in ("s1", "s2", "b1", "b2")] == [0.9, 0.2, 1.2, 1.4]
    whole = {"enabled": True, "version": "v1", "start_percent": 0.0, "end_percent": 1.0}
    assert {name: freeu["inputs"][name] for name in whole} == whole


def test_each_part_of_the_windows_gets_a_node_behind_the_last():
    settings = settings_of(
        "--freeu", "0.9,0.2,1.2,1.4", "--frames", "40", "--window", "8", "--overlap", "3", "--free-noise",
        "--window-part", "0.25-0.5:schedule=looped_uniform,closed_loop=on,stride=2",
        "--window-part", "0.5:views=on,fuse=flat",
    )  # fmt: skip
    workflow = clip_graph(settings, "webp").workflow()
    first, loop, views = values(workflow, "UNetMotion_ContextWindows")
    assert first == [8, 3, 1, "standard_uniform", False, 0, "pyramid", True, False, 1, 0.0, 1.0, False, 0]
    assert loop == [8, 3, 2, "looped_uniform", True, 0, "pyramid", True, False, 1, 0.25, 0.5, False, 0]
    assert views == [8, 3, 1, "standard_uniform", False, 0, "flat", True, False, 1, 0.5, 1.0, True, 0]
    kinds = [node["type"] for node in workflow["nodes"]]
    order = [kinds.index("UNetMotion_FreeU"), *(i for i, k in enumerate(kinds) if k == "UNetMotion_ContextWindows")]
    into = {(target - 1): source - 1 for _, source, _, target, place, kind in workflow["links"] if kind == "MODEL"}
    assert into[kinds.index("KSampler")] == order[3] and [into[node] for node in order[1:]] == order[:3]


def test_signs_with_a_meaning_in_comfyui_are_left_out_of_the_prompt():
    settings = settings_of(prompt="a (red:1.5) {star|moon} // moving \\left")
    text, _ = values(clip_graph(settings, "webp").workflow(), "CLIPTextEncode")
    assert text[0].split() == ["a", "red:1.5", "star", "moon", "moving", "left"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "mine.safetensors"),
        ("--motion-lora", "pan.safetensors"),
        ("--sampler", "euler_ancestral"),
        ("--sampler", "lcm"),
        ("--attention", "sage"),
        ("--float8",),
        ("--seed", str(2**53)),
        ("--width", "8"),
        ("--width", "1024", "--scale", "32"),
        ("--fps", "0.005"),
        ("--freeu", "0.9,0.2,1.2,11"),
        ("--window", "8", "--loop", "--free-noise"),
        ("--window", "8", "--stride", "33"),
        ("--window", "8", "--frames", "4097"),
        ("--window", "8", "--noise", "repeated"),
        ("--noise", "constant"),
    ],
)
def test_where_comfyui_has_no_equal_there_is_no_graph(arguments):
    assert no_graph(settings_of()) is None
    assert no_graph(settings_of(*arguments)) is not None
    assert clip_graph(settings_of(*arguments), "webp") is None


def test_files_of_generate_hold_the_graph_that_saves_one_of_their_kind(tmp_path):
    made = {"clip.webp": "webp", "clip.mp4": "mp4", "clip.png": "sheet", "frames": "webp"}
    for name, kind in made.items():
        if kind == "mp4":
            pytest.importorskip("av", reason="MP4 needs the extra `video`")
        path, sheet = tmp_path / name, tmp_path / f"sheet of {name}.png"
        arguments = ["--out", str(path), "--sheet", str(sheet), "--frames", "2", "--steps", "1", "--scale", "1"]
        quality = 85 if path.suffix in (".webp", ".mp4") else None
        more = [] if quality is None else ["--quality", str(quality)]
        assert main(["generate", "a red star moving left", "--json", *arguments, *more]) == 0
        expected = clip_graph(settings_of(*arguments), kind, quality)
        assert read_graphs(path) == {"workflow": expected.workflow(), "prompt": expected.prompt()}
        assert values(read_graphs(sheet)["workflow"], "UNetMotion_SaveClip")[0][1] == "sheet"


def test_a_gif_and_a_clip_of_another_model_hold_none(tmp_path, model_file, capsys):
    few = ["--frames", "2", "--steps", "1", "--json"]
    for name, more in (("clip.gif", []), ("clip.webp", ["--model", str(model_file)])):
        assert main(["generate", "a red star", "--out", str(tmp_path / name), *few, *more]) == 0
        assert json.loads(capsys.readouterr().out)["steps"] == 1
        assert read_graphs(tmp_path / name) == {}
