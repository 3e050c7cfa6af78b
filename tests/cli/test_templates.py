"""The example workflows as files: what the page needs to offer packs and models that are missing."""

from __future__ import annotations

import json
import re

import pytest

from tests.comfyui.installations import ROOT
from tests.workflows.test_clip import settings_of
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


def test_the_first_template_draws_another_clip_each_time():
    nodes = nodes_of(ROOT / "example_workflows" / "first_animation.json")
    (sampler,) = (node for node in nodes if node["type"] == "KSampler")
    assert sampler["widgets_values"][1] == "randomize"
