"""Two motion LoRAs in a row on a real server: alone, together, and with strengths that vary."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui.graphs import bundled, sample
from unet_motion.bundled import load_bundled, motion_lora_names
from unet_motion.lora.names import original_motion

FRAMES, STEPS = 8, 4


def relative(a, b):
    return float((a - b).norm() / b.norm())


def tensors(seed):
    """AnimateDiff's names, for every query and output of the bundled model's motion modules."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for path, layer in load_bundled().unet.named_modules():
        if ".motion_modules." in path and path.endswith((".to_q", ".to_out.0")):
            block, _, leaf = path.removesuffix(".0").rpartition(".")
            for half, size in (("down", (4, layer.weight.shape[1])), ("up", (layer.weight.shape[0], 4))):
                name = f"{original_motion(f'{block}.')}processor.{leaf}_lora.{half}.weight"
                found[name] = 0.2 * torch.randn(size, generator=generator)
    return found


@pytest.fixture
def files(server):
    folder = server.base / "models" / "animatediff_motion_lora"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"server_{word}.safetensors" for word in ("pan", "zoom")]
    for seed, name in enumerate(names):
        save_file(tensors(seed), folder / name)
    yield names
    for name in names:
        (folder / name).unlink()


def test_two_in_a_row_act_together_and_each_alone_and_leave_nothing(server, files):
    graph, needs = bundled(FRAMES)
    info = server.get("/object_info/UNetMotion_LoadMotionLoRA")["UNetMotion_LoadMotionLoRA"]
    offered = info["input"]["required"]["lora_name"]
    assert set(files) <= set(offered[0] if isinstance(offered[0], list) else offered[1]["options"])

    def load(model, file, **values):
        return graph.add("UNetMotion_LoadMotionLoRA", model=model, lora_name=file, strength=0.5, **values), 0

    pan = load(needs["model"], files[0])
    both = load(pan, files[1])
    frames = load(pan, files[1], strength_over_frames="0:0, 7:1")
    level = load(pan, files[1], strength_over_frames="0:0, 0:1")
    steps = load(pan, files[1], strength_over_steps="0:1, 0.3:1, 0.3:0")
    found = {"plain": needs["model"], "pan": pan, "both": both, "frames": frames, "level": level, "steps": steps}
    for name, model in found.items():
        sample(graph, {**needs, "model": model}, name, steps=STEPS)
    run = server.run(graph)
    assert run.error is None
    latents = {name: server.latent(run, name) for name in found}
    assert relative(latents["level"], latents["both"]) < 1e-4
    different = [latents[name] for name in ("plain", "pan", "both", "frames", "steps")]
    assert min(relative(a, b) for i, a in enumerate(different) for b in different[:i]) > 1e-3
    assert "server_zoom.safetensors:" in server.log() and "layers matched" in server.log()
    server.free()
    alone, needs = bundled(FRAMES)
    sample(alone, needs, "plain", steps=STEPS)
    assert torch.equal(server.latent(server.run(alone), "plain"), latents["plain"])


def test_those_that_come_with_the_pack_are_offered_and_act(server):
    graph, needs = bundled(FRAMES)
    info = server.get("/object_info/UNetMotion_LoadMotionLoRA")["UNetMotion_LoadMotionLoRA"]
    offered = info["input"]["required"]["lora_name"]
    offered = offered[0] if isinstance(offered[0], list) else offered[1]["options"]
    names = [f"{name} (bundled)" for name in motion_lora_names()]
    assert names and offered[-len(names) :] == names
    for name, strength in (("none", 0.0), ("full", 1.0)):
        node = graph.add("UNetMotion_LoadMotionLoRA", model=needs["model"], lora_name=names[0], strength=strength)
        sample(graph, {**needs, "model": (node, 0)}, name, steps=STEPS)
    run = server.run(graph)
    assert run.error is None
    assert relative(server.latent(run, "full"), server.latent(run, "none")) > 1e-2


def test_a_curve_that_cannot_be_read_is_an_error_of_the_node(server, files):
    graph, needs = bundled(FRAMES)
    wrong = {"lora_name": files[0], "strength": 1.0, "strength_over_steps": "0:1, two:0"}
    node = graph.add("UNetMotion_LoadMotionLoRA", model=needs["model"], **wrong)
    sample(graph, {**needs, "model": (node, 0)}, "wrong")
    run = server.run(graph)
    assert run.message.startswith("`strength_over_steps`: found 'two', expected"), run.message
