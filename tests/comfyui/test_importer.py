"""Graphs of AnimateDiff-Evolved on servers that lack it: posted ones run, the page's come back converted."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from unet_motion.workflows.importer.table import CHOICES, OTHER_PACKS, ROWS, TARGETS, is_old, one_to_one, written_for

SETTINGS = "user/default/comfy.settings.json"
CONVERT_POSTED = "UNetMotion.Workflows.ConvertPosted"


def old_graph(frames=4, seed=3):
    """Five core nodes on the bundled model between two of AnimateDiff-Evolved."""
    texts = {key: {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": text}}
             for key, text in (("2", "a red star moving left"), ("3", ""))}  # fmt: skip
    sampled = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    settings = {"seed": seed, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    latents = {"width": 64, "height": 64, "batch_size": frames}
    clip = {"images": ["6", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "old", "format": "image/webp",
            "pingpong": False, "save_image": True}  # fmt: skip
    return {
        "1": {"class_type": "UNetMotion_LoadBundled", "inputs": {}},
        **texts,
        "4": {"class_type": "ADE_EmptyLatentImageLarge", "inputs": latents},
        "5": {"class_type": "KSampler", "inputs": {**sampled, **settings}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "ADE_AnimateDiffCombine", "inputs": clip},
    }


def ask(server, path, body):
    """Status, headers and JSON of the answer to a POST."""

    async def request():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{server.address}{path}", json=body) as answer,
        ):
            return answer.status, answer.headers, await answer.json()

    return asyncio.run(request())


def test_what_conversions_write_is_what_the_servers_have(server):
    """Ids, order of widgets, types, defaults, outputs and choices of every node that the table writes."""
    found = server.get("/object_info")
    needed = {stage for kind in ROWS if kind not in OTHER_PACKS for stage in written_for(kind)}
    for kind, target in TARGETS.items():
        # Nodes of a newer core that stand for other packs' are not written where they are missing.
        if kind not in found and kind not in needed:
            continue
        info = found[kind]
        order = [name for part in ("required", "optional") for name in info["input_order"].get(part, [])]
        inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
        ours = list(target.inputs)
        assert [name for name in order if name in ours] == ours, kind
        # What a newer core has behind ours is not set.
        assert set(order[: len(ours)]) == set(ours) or target.pack == "comfy-core", kind
        assert target.pack == "comfy-core" or set(order) == set(ours), kind
        for name, spec in target.inputs.items():
            type_, *options = inputs[name]
            options = options[0] if options else {}
            is_list = isinstance(type_, list)
            assert ("COMBO" if is_list else type_) == spec.type, (kind, name)
            if spec.is_widget and "default" in options and target.pack != "comfy-core":
                assert options["default"] == spec.default, (kind, name)
            control = spec.extra is not None and spec.extra[0] == "control_after_generate"
            assert bool(options.get("control_after_generate")) == control, (kind, name)
            if (kind, name) in CHOICES:
                assert set(CHOICES[kind, name]) == set(type_ if is_list else options["options"]), (kind, name)
        # Older cores have fewer.
        outputs = target.outputs[: len(info["output"])] if target.pack == "comfy-core" else target.outputs
        assert [type_ if isinstance(type_, str) else "COMBO" for type_ in info["output"]] == [
            type_ for _, type_ in outputs
        ], kind


def test_a_posted_graph_runs_and_the_answer_says_so(server):
    status, headers, answer = ask(server, "/prompt", {"prompt": old_graph()})
    assert status == 200, answer
    assert headers["UNetMotion-Converted"] == "2 replaced, 0 left, 0 values changed"
    assert "[UNetMotion] A posted graph of AnimateDiff-Evolved was converted: 2 replaced" in server.log()
    run = server.run(old_graph(frames=5))
    assert run.error is None
    (saved,) = run.outputs["7"]["images"]
    ours = old_graph(frames=5)
    ours["4"]["class_type"] = "EmptyLatentImage"
    ours["7"] = {"class_type": "UNetMotion_SaveClip", "inputs": {
        "images": ["6", 0], "filename_prefix": "new", "format": "webp", "fps": 8.0, "quality": 100}}  # fmt: skip
    (expected,) = server.run(ours).outputs["7"]["images"]
    assert pictures(server.file(saved)) == pictures(server.file(expected))
    assert len(pictures(server.file(saved))) == 5
    _, headers, _ = ask(server, "/prompt", {"prompt": ours})
    assert "UNetMotion-Converted" not in headers


def pictures(data):
    import io

    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(data)) as image:
        return [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(image)]


def test_the_setting_switches_it_off(server):
    path = server.base / SETTINGS
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_text(json.dumps({CONVERT_POSTED: False}))
        status, headers, answer = ask(server, "/prompt", {"prompt": old_graph()})
        assert status == 400 and "UNetMotion-Converted" not in headers
        assert "ADE_" in answer["error"]["message"]
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def test_what_has_no_counterpart_is_said_in_the_log(server):
    graph = old_graph()
    graph["8"] = {"class_type": "ADE_NoSuchNode", "inputs": {}}
    status, headers, _ = ask(server, "/prompt", {"prompt": graph})
    assert status == 200 and headers["UNetMotion-Converted"] == "2 replaced, 1 left, 0 values changed"
    assert "[UNetMotion] Node 8 (ADE_NoSuchNode): is not known here" in server.log()


def test_the_page_gets_its_graph_converted(server):
    status, _, answer = ask(server, "/unet_motion/convert_workflow", {"workflow": old_graph()})
    assert status == 200 and answer["report"]["whole"]
    assert not any(is_old(node["class_type"]) for node in answer["workflow"].values())


@pytest.mark.parametrize("body", [None, [], {}, {"workflow": 3}, {"workflow": {"nodes": [], "links": {"a": 1}}},
                                  {"workflow": {"nodes": []}, "replace_packs": "all"}])  # fmt: skip
def test_bad_bodies_are_refused(server, body):
    status, _, answer = ask(server, "/unet_motion/convert_workflow", body)
    assert status == 400 and 10 < len(answer["error"]) < 600


def test_core_knows_which_nodes_one_node_stands_for(server):
    if not server.installation.version.startswith("0.3."):
        known = server.get("/node_replacements")
        for old, (new, inputs, widgets) in one_to_one().items():
            (entry,) = known[old]
            assert (entry["new_node_id"], entry["old_widget_ids"]) == (new, widgets)
            assert {pair["new_id"]: pair["old_id"] for pair in entry["input_mapping"]} == inputs
            assert set(inputs.values()) <= set(ROWS[old].inputs)
