"""The example workflows as files: what the page needs to offer packs and models that are missing."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from tests.comfyui.installations import ROOT
from tests.workflows.test_clip import settings_of
from unet_motion.bundled import motion_lora_names
from unet_motion.video import read_graphs
from unet_motion.workflows.clip import clip_graph
from unet_motion.workflows.graph import pack_of

FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints",
    "ControlNetLoader": "controlnet",
    "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras",
    "UNetMotion_LoadMotionModule": "animatediff_models",
}
FILES = sorted((ROOT / "example_workflows").glob("*.json"))
ROW = re.compile(r"^\| \[([^\]]+)\]\((https://[^)]+)\)[^|]*\| `(\w+)` \|$", re.M)


def nodes_of(path):
    return json.loads(path.read_text())["nodes"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_node_names_the_pack_that_it_comes_from(path):
    for node in nodes_of(path):
        if node["type"] != "MarkdownNote":
            own = node["type"].startswith("UNetMotion_")
            assert node["properties"]["cnr_id"] == ("unet-motion" if own else "comfy-core"), node["type"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_that_is_loaded_is_offered_and_its_note_links_to_the_file_itself(path):
    nodes = nodes_of(path)
    notes = "\n".join(node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    listed = {name: (url, folder) for name, url, folder in ROW.findall(notes)}
    loaders = [node for node in nodes if node["type"] in FOLDERS]
    for node in loaders:
        name, folder = node["widgets_values"][0], FOLDERS[node["type"]]
        url, listed_folder = listed[name]
        assert listed_folder == folder
        assert node["properties"]["models"] == [{"name": name, "url": url, "directory": folder}]
        assert re.fullmatch(rf"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/{re.escape(name)}", url)
    assert listed.keys() == {node["widgets_values"][0] for node in loaders}


def test_the_graph_in_a_clip_names_packs_too():
    nodes = clip_graph(settings_of(), "webp").workflow()["nodes"]
    kinds = {node["type"]: node["properties"]["cnr_id"] for node in nodes}
    assert kinds == {kind: pack_of(kind) for kind in kinds}
    assert kinds["UNetMotion_SaveClip"] == "unet-motion" and kinds["KSampler"] == "comfy-core"


@pytest.mark.parametrize("name", ["demo", "graph"])
def test_a_picture_of_the_readme_brings_the_first_template_when_it_is_dropped(name):
    picture = ROOT / "assets" / f"{name}.webp"
    assert f"(assets/{name}.webp)" in (ROOT / "README.md").read_text()
    brought = read_graphs(picture)["workflow"]
    template = json.loads((ROOT / "example_workflows" / "first_animation.json").read_text())
    parts = ("id", "type", "inputs", "outputs", "widgets_values")
    both = ([[node[part] for part in parts] for node in graph["nodes"]] for graph in (brought, template))
    assert next(both) == next(both) and brought["links"] == template["links"]


MOVING = (
    "first_animation", "bundled_motion_lora", "image_to_animation", "video_to_video",
    "freeu_and_attention_side_by_side", "train_motion_lora", "long_clip", "closed_loop", "prompt_travel",
    "long_video_to_video",
)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_templates_picture_is_small_and_moves_where_it_needs_no_model(path):
    picture = path.with_suffix(".jpg")
    assert picture.stat().st_size < 300_000
    with Image.open(picture) as image:
        assert 300 <= image.width <= 700
        assert getattr(image, "n_frames", 1) > 8 if path.stem in MOVING else image.format in ("JPEG", "WEBP")


def test_a_template_shows_a_motion_lora_that_comes_with_the_pack():
    nodes = nodes_of(ROOT / "example_workflows" / "bundled_motion_lora.json")
    (lora,) = (node for node in nodes if node["type"] == "UNetMotion_LoadMotionLoRA")
    name = lora["widgets_values"][0]
    assert name.removesuffix(" (bundled)") in motion_lora_names() and name.endswith(" (bundled)")


def test_the_first_template_draws_another_clip_each_time():
    nodes = nodes_of(ROOT / "example_workflows" / "first_animation.json")
    (sampler,) = (node for node in nodes if node["type"] == "KSampler")
    assert sampler["widgets_values"][1] == "randomize"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_node_but_notes_stands_in_one_group(path):
    groups = json.loads(path.read_text())["groups"]
    assert all(group["title"] for group in groups)
    for node in nodes_of(path):
        left, top = node["pos"][0], node["pos"][1] - 30  # with its title
        right, bottom = left + node["size"][0], node["pos"][1] + node["size"][1]
        around = [
            group["title"]
            for group, (x, y, width, height) in ((group, group["bounding"]) for group in groups)
            if x <= left and y <= top and right <= x + width and bottom <= y + height
        ]
        assert len(around) == (node["type"] != "MarkdownNote"), (node["type"], around)
