"""The example workflow of every kind of motion module, through the API of a real server, with files of random weights.

Those for SD1.5 run at full size. SDXL's runs with a small model of its structure in the place of the checkpoint, with
motion modules of its widths.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.comfyui.big_files import write_lora
from tests.comfyui.server import Server
from tests.comfyui.test_sd15 import FRAMES, assert_is_a_clip, nodes_of, small_example
from tests.formats.full_size import write_kind

SD15 = {
    "animatelcm_text_to_animation": "lcm",
    "animatelcm_picture_to_animation": "lcm_i2v",
    "pia_picture_to_animation": "pia",
}
SDXL = {"hotshotxl_text_to_animation": "hotshot", "sdxl_beta_text_to_animation": "sdxl"}
WIDTHS = (64, 128, 256)


def with_its_own_module(server, name):
    """The graph at a small size, with the module that the workflow names, and its latents saved."""
    saved = small_example(server, name, motion_module=None)
    (save,) = nodes_of(saved, "SaveAnimatedWEBP")
    samples = saved[saved[save]["inputs"]["images"][0]]["inputs"]["samples"]
    saved.add("SaveLatent", "latents", samples=tuple(samples), filename_prefix=f"latents/{name}")
    (loader,) = nodes_of(saved, "UNetMotion_LoadMotionModule")
    return saved, saved[loader]["inputs"]["motion_module"]


def latents_of(server, graph):
    run = server.run(graph)
    assert run.error is None, run.error
    found = server.latent(run, "latents")
    assert found.shape == (FRAMES, 4, 8, 8) and torch.isfinite(found).all() and found.std() > 0.01
    return run, found


@pytest.mark.parametrize("name", SD15)
def test_the_workflow_of_a_kind_for_sd15_makes_a_clip(server, files, elsewhere, name):
    server.free()
    graph, module = with_its_own_module(server, name)
    path = elsewhere / "animatediff_models" / module
    write_kind(path, SD15[name])
    for node in nodes_of(graph, "LoraLoaderModelOnly"):
        write_lora(elsewhere / "loras" / graph[node]["inputs"]["lora_name"])
    run, first = latents_of(server, graph)
    assert_is_a_clip(server, run)
    for node, change in (("UNetMotion_PIA", {"strength": 0.5}), ("UNetMotion_AnimateLCMI2V", {"motion_scale": 0.0})):
        for place in nodes_of(graph, node):
            graph[place]["inputs"] |= change
            _, second = latents_of(server, graph)
            assert float((second - first).norm() / first.norm()) > 1e-3
    server.free()
    path.unlink()


@pytest.fixture(scope="module")
def sdxl_server(installation, tmp_path_factory):
    """A server with a node that gives a small SDXL model."""
    pack = Path(__file__).with_name("small_sdxl")
    found = Server(installation, tmp_path_factory.mktemp("sdxl"), packs=(pack,))
    found.start()
    yield found
    found.stop()


@pytest.mark.parametrize("name", SDXL)
def test_the_workflow_of_a_kind_for_sdxl_makes_a_clip(sdxl_server, name):
    graph, module = with_its_own_module(sdxl_server, name)
    folder = sdxl_server.base / "models" / "animatediff_models"
    folder.mkdir(exist_ok=True)
    write_kind(folder / module, SDXL[name], WIDTHS)
    (checkpoint,) = nodes_of(graph, "CheckpointLoaderSimple")
    graph[checkpoint] = {"class_type": "SmallSDXL", "inputs": {}}
    graph.add("UNetMotion_LoadBundled", "bundled")
    texts = nodes_of(graph, "CLIPTextEncode")
    for node in graph.values():
        for name, link in node["inputs"].items():
            if isinstance(link, list) and link[0] in texts:
                node["inputs"][name] = [checkpoint, 1 + texts.index(link[0])]
            elif name == "vae":
                node["inputs"][name] = ["bundled", 2]
    for node in texts:
        del graph[node]
    run, _ = latents_of(sdxl_server, graph)
    assert_is_a_clip(sdxl_server, run)
