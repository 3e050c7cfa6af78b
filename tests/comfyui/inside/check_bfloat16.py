"""A CPU that is made for bfloat16: the loaders' MODELs compute in it, from weights that stay as they are.

bfloat16 itself works on every CPU, so that these checks run on all of them.
"""

from __future__ import annotations

import comfy_extras.nodes_model_advanced as core
import pytest
import torch
from comfy.cli_args import args
from pack.nodes.host.model.build import DTYPE_OPTIONS, computed_in
from pack.nodes.host.model.bundled import load_bundled_models
from pack.unet_motion.ops import cpu_vectors
from sampled import execute, noise, sample

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


def test_the_network_computes_in_bfloat16_from_the_same_weights(full, fast):
    reference, text, expected = full
    model, _ = loaded()
    found, dtypes = dtypes_inside(model, text)
    assert dtypes == {torch.bfloat16} and found.dtype == torch.float32
    # The step takes away what the network says times the noise's size: so far apart is what it says.
    apart = (found - expected).norm() / (reference.model.model_sampling.sigma_max * noise().norm())
    assert 1e-4 < apart < 0.02
    for (name, a), (other, b) in zip(*(m.model.state_dict().items() for m in (model, reference)), strict=True):
        assert name == other and a.dtype == b.dtype and torch.equal(a, b)


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
