"""A CPU that is made for bfloat16: the loaders' MODELs compute in it, from weights that stay as they are.

bfloat16 itself works on every CPU, so that these checks run on all of them.
"""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import comfy_extras.nodes_model_advanced as core
import pytest
import torch
from check_control import controlled, controlnet
from comfy.cli_args import args
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.build import DTYPE_OPTIONS, Source, build_model, computed_in, sampling_settings
from pack.nodes.host.model.bundled import load_bundled_models
from pack.unet_motion import bundled
from pack.unet_motion.ops import cpu_vectors
from sampled import execute, models, noise, sample
from small import relative

MOTION_LORAS = Path(bundled.__file__).with_name("motion_loras")
CPU, SUPPORTED = torch.device("cpu"), [torch.float16, torch.bfloat16, torch.float32]


def loaded():
    model, clip, _ = load_bundled_models()
    return model, clip.encode_from_tokens_scheduled(clip.tokenize("a red star moving left"))


@pytest.fixture(scope="module")
def full():
    """The MODEL and the latents in float32."""
    model, text = loaded()
    return model, text, dtypes_inside(model, text)[0]


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(cpu_vectors, "BFLOAT16", True)


def dtypes_inside(model, text):
    """The latents of one step from noise, and the dtypes of a layer's results."""
    found = set()
    layer = model.model.diffusion_model.core.mid_block.resnets[0].conv1
    handle = layer.register_forward_hook(lambda _, given, out: found.add(out.dtype))
    try:
        return sample(model, text, text, steps=1, cfg=1.0, start=noise()), found
    finally:
        handle.remove()


def apart(a, b, model):
    """How far apart is what the network says: a step takes it away times the noise's size."""
    return float((a - b).norm() / (model.model.model_sampling.sigma_max * noise().norm()))


def test_the_network_computes_in_bfloat16_from_the_same_weights(full, fast):
    reference, text, expected = full
    model, _ = loaded()
    found, dtypes = dtypes_inside(model, text)
    assert dtypes == {torch.bfloat16} and found.dtype == torch.float32
    assert 1e-4 < apart(found, expected, model) < 0.02
    for (name, a), (other, b) in zip(*(m.model.state_dict().items() for m in (model, reference)), strict=True):
        assert name == other and a.dtype == b.dtype and torch.equal(a, b)


def with_core_lora(model):
    key = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    rows, columns = model.model.diffusion_model.get_submodule(key).weight.shape
    name = "lora_unet_" + key.replace(".", "_")
    up, down = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((rows, 4), (4, columns)))
    lora = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def with_motion_lora(model):
    return load_motion_lora(model, str(MOTION_LORAS / "zoom-in.safetensors"), 4.0, "", "0:0, 1:1")


@pytest.mark.parametrize("change", [with_core_lora, with_motion_lora])
def test_loras_act_as_in_float32(change, full, fast):
    reference, text, plain = full
    results = [dtypes_inside(change(model), text) for model in (reference, loaded()[0])]
    (expected, single), (found, half) = results
    assert (single, half) == ({torch.float32}, {torch.bfloat16})
    error = apart(found, expected, reference)
    assert error < 0.02 and apart(expected, plain, reference) > 3 * error


def test_a_controlnet_acts_as_in_float32(monkeypatch):
    """Its residuals are in float32, as core computes them on a CPU; the error stays that of the network without."""
    core = models(active=True)[1].model.diffusion_model.core
    results = []
    for fast in (False, True):
        monkeypatch.setattr(cpu_vectors, "BFLOAT16", fast)
        model = build_model(Source(core.config, core.state_dict(), sampling_settings("linear")))
        texts = controlled(controlnet())
        results.append([sample(model, **given, cfg=1.0, start=noise()) for given in ({}, texts)])
    (plain, expected), (rounded, found) = results
    assert relative(found, expected) < 2 * relative(rounded, plain) < 0.04
    assert relative(expected, plain) > 6 * relative(found, expected)


def test_cores_node_is_the_word_for_float32(full, fast):
    _, text, expected = full
    model, _ = loaded()
    exact = execute(core.ModelComputeDtype, model, "fp32")
    found, dtypes = dtypes_inside(exact, text)
    assert dtypes == {torch.float32} and torch.equal(found, expected)
    found, dtypes = dtypes_inside(model, text)
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("option", DTYPE_OPTIONS)
def test_a_start_option_of_comfyui_wins(option, fast, monkeypatch):
    assert computed_in(torch.float32, CPU, SUPPORTED) == torch.bfloat16
    monkeypatch.setattr(args, option, True)
    assert computed_in(torch.float32, CPU, SUPPORTED) is None
    assert computed_in(torch.float16, CPU, SUPPORTED) == torch.float32


def test_other_processors_and_devices_are_left_to_comfyui(monkeypatch):
    monkeypatch.setattr(cpu_vectors, "BFLOAT16", False)
    assert computed_in(torch.float32, CPU, SUPPORTED) is None
    monkeypatch.setattr(cpu_vectors, "BFLOAT16", True)
    assert computed_in(torch.float32, torch.device("meta"), SUPPORTED) is None


def test_every_option_is_one_of_comfyuis():
    assert all(hasattr(args, name) for name in DTYPE_OPTIONS)
