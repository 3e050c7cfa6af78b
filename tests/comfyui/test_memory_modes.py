"""Servers started with the options that choose a dtype, beside the one without: the bundled model, and a LoRA on it.

--lowvram and --novram exclude --cpu; what they do to a MODEL is in `inside/check_memory.py`.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui.graphs import bundled, sample
from tests.comfyui.installations import find_installations
from tests.comfyui.server import Server

LAYERS = {
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q": 64,
    "motion.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_v": 64,
}
# Start option -> dtype of the weights, and how far two steps may be from those in float32.
OPTIONS = {
    # The bundled model's file is in float16, and a CPU computes in float32 with it.
    "--force-fp16": ("torch.float16", 0),
    "--bf16-unet": ("torch.bfloat16", 0.05),
    "--fp8_e4m3fn-unet": ("torch.float8_e4m3fn", 0.6),
}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def write_lora(server):
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for layer, width in LAYERS.items():
        weights[f"diffusion_model.{layer}.lora_down.weight"] = 0.3 * torch.randn(4, width, generator=generator)
        weights[f"diffusion_model.{layer}.lora_up.weight"] = 0.3 * torch.randn(width, 4, generator=generator)
    save_file(weights, folder / "modes.safetensors")


def latents(server):
    """The bundled model's, without a LoRA and with it at two strengths."""
    write_lora(server)
    graph, needs = bundled(frames=4)
    for name, strength in (("plain", None), ("none", 0.0), ("lora", 1.0)):
        model = needs["model"]
        if strength is not None:
            given = {"lora_name": "modes.safetensors", "strength_model": strength}
            model = graph.add("LoraLoaderModelOnly", model=model, **given), 0
        sample(graph, {**needs, "model": model}, name)
    run = server.run(graph)
    assert run.error is None, run.error
    return {name: server.latent(run, name) for name in ("plain", "none", "lora")}


@pytest.fixture(scope="module")
def normal(server):
    found = latents(server)
    assert torch.equal(found["plain"], found["none"]) and relative(found["lora"], found["plain"]) > 0.05
    return found


@pytest.mark.parametrize("option", OPTIONS)
def test_a_server_with_another_dtype_draws_nearly_the_same_and_takes_the_lora(installation, normal, option, tmp_path):
    if installation.version != find_installations()[0].version and option != "--fp8_e4m3fn-unet":
        pytest.skip("on the newest version only")
    dtype, tolerance = OPTIONS[option]
    server = Server(installation, tmp_path, (option,))
    server.start()
    try:
        found = latents(server)
        assert f"model weight dtype {dtype}" in server.log()
    finally:
        server.stop()
    assert torch.equal(found["plain"], found["none"])
    distance = relative(found["plain"], normal["plain"])
    assert distance <= tolerance and (distance > 0) == (tolerance > 0)
    change, expected = (each["lora"] - each["plain"] for each in (found, normal))
    assert relative(change, expected) < max(0.1, tolerance)
