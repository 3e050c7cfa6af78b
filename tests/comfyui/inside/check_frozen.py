"""The copy of a MODEL's UNet that training runs on computes what the MODEL does."""

from __future__ import annotations

import logging

import comfy.lora
import comfy.model_management as mm
import comfy.model_sampling
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.settings import with_settings
from pack.nodes.host.training.frozen import frozen_unet, schedule_of
from pack.unet_motion.sampling import NoiseSchedule
from sampled import execute
from small import inputs, motion_module, options, relative, sd15

CPU = torch.device("cpu")
LAYERS = ("input_blocks.1.1.transformer_blocks.0.attn1.to_q",
          "motion.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q")  # fmt: skip


@pytest.fixture
def moving():
    with torch.inference_mode():
        return apply_motion_module(sd15(), motion_module())


def with_lora(model):
    state = model.model.state_dict()
    patches = {}
    for layer in LAYERS:
        key = f"diffusion_model.{layer}.weight"
        generator = torch.Generator().manual_seed(4)
        patches[key] = ("diff", (0.3 * torch.randn(state[key].shape, generator=generator),))
    patched = model.clone()
    assert set(patched.add_patches(patches, 0.5)) == set(patches)
    return patched


def both(model, unet, frames=4):
    torch.manual_seed(0)
    given = inputs(frames, 8, 8, conds=1)
    mm.load_models_gpu([model], force_patch_weights=True)
    found = model.model.diffusion_model(**given, transformer_options=options(1))
    with torch.inference_mode(False):
        ours = unet.forward_frames(given["x"].clone(), given["timesteps"].clone(), given["context"][:1].clone(), frames)
    return ours, found


def test_the_copy_has_the_models_patches_and_shares_nothing(moving):
    plain, patched = (frozen(model) for model in (moving, with_lora(moving)))
    ours, found = both(moving, plain)
    assert relative(ours, found) < 1e-5
    ours, other = both(with_lora(moving), patched)
    assert relative(ours, other) < 1e-5 < 1e-2 < relative(other, found)
    # Loaded or not, the copy is of the weights with their patches, once.
    again, _ = both(with_lora(moving), frozen(with_lora(moving)))
    assert torch.equal(again, ours)
    own = {tensor.data_ptr() for tensor in moving.model.state_dict().values()}
    for tensor in patched.state_dict().values():
        assert tensor.data_ptr() not in own and not tensor.is_inference() and not tensor.requires_grad


def frozen(model, dtype=torch.float32):
    with torch.inference_mode(), torch.inference_mode(False):
        return frozen_unet(model, CPU, dtype)


def test_only_matrices_are_in_another_dtype(moving):
    for name, tensor in frozen(moving, torch.bfloat16).state_dict().items():
        expected = torch.float32 if tensor.ndim < 2 or name.endswith(".pe") else torch.bfloat16
        assert tensor.dtype == expected, name


def test_what_acts_while_sampling_only_is_named_in_the_log(moving, caplog):
    with caplog.at_level(logging.WARNING):
        frozen(with_settings(moving, freeu={"s1": 0.9}))
    assert "FreeU of `model` act while it samples and are left out" in caplog.text


@pytest.mark.parametrize("prediction", ["eps", "v_prediction"])
def test_the_noise_is_that_of_the_models_sampling(moving, prediction):
    model = execute(ModelSamplingDiscrete, moving, prediction, False)
    if not hasattr(model, "get_model_object"):
        model = model[0]
    found = schedule_of(model)
    expected = NoiseSchedule.named("linear", prediction={"eps": "epsilon"}.get(prediction, prediction))
    assert found.prediction == expected.prediction
    assert torch.allclose(found.alphas_cumprod, expected.alphas_cumprod, rtol=1e-4)


def test_other_samplings_are_refused(moving):
    lcm = execute(ModelSamplingDiscrete, moving, "lcm", False)
    lcm = lcm if hasattr(lcm, "get_model_object") else lcm[0]
    with pytest.raises(ValueError, match="noise levels for other timesteps, as LCM's ModelSampling"):
        schedule_of(lcm)
    flow = moving.clone()
    kind = type("Flow", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {})
    flow.add_object_patch("model_sampling", kind(moving.model.model_config))
    with pytest.raises(ValueError, match="expected discrete noise levels and eps, v or x0"):
        schedule_of(flow)
