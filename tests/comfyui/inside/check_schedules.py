"""Noise schedules that Apply Motion Module and Load Motion UNet set, against core's own classes and closed forms."""

from __future__ import annotations

import comfy.model_base
import pytest
import torch
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscrete, ModelSamplingDiscreteDistilled
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.noise_schedules import BETA_SCHEDULES, KEEP
from pack.unet_motion.sampling import noise_ratios
from sampled import execute, sample
from small import motion_module, relative, sd15


class Config:
    def __init__(self, name, end=0.012):
        self.sampling_settings = {"beta_schedule": name, "linear_start": 0.00085, "linear_end": end}


def core(name, end=0.012, timesteps=None):
    """Core's schedule of this name, distilled where a number of timesteps is given."""
    if timesteps is None:
        return comfy.model_base.model_sampling(Config(name, end), comfy.model_base.ModelType.EPS)
    kind = type("Kind", (ModelSamplingDiscreteDistilled, LCM), {"original_timesteps": timesteps})
    return kind(Config(name, end))


EXPECTED = {
    "sqrt_linear": lambda: core("sqrt_linear").sigmas,
    "linear": lambda: core("linear").sigmas,
    "linear to 0.02": lambda: core("linear", 0.02).sigmas,
    "average": lambda: (core("sqrt_linear").sigmas + core("linear").sigmas) / 2,
    "lcm": lambda: core("linear", timesteps=50).sigmas,
    "lcm 100": lambda: core("linear", timesteps=100).sigmas,
    "lcm sqrt_linear": lambda: core("sqrt_linear", timesteps=50).sigmas,
    "lcm average": lambda: (core("sqrt_linear", timesteps=50).sigmas + core("linear", timesteps=50).sigmas) / 2,
    "squaredcos_cap_v2": lambda: noise_ratios("squaredcos_cap_v2"),
}


def sampling_of(model):
    return model.get_model_object("model_sampling")


@pytest.mark.parametrize("name", [name for name in BETA_SCHEDULES if name not in ("auto", KEEP)])
def test_each_choice_is_cores_schedule(name):
    model = apply_motion_module(sd15(), motion_module(), beta_schedule=name)
    found, expected = sampling_of(model), EXPECTED[name]()
    assert found.sigmas.shape == expected.shape and relative(found.sigmas, expected.float()) < 1e-5
    assert isinstance(found, LCM) == name.startswith("lcm")
    # The UNet is told the timestep that its noise stands for.
    index = len(expected) // 2
    step = N // len(expected)
    assert int(found.timestep(found.sigmas[index : index + 1])) == index * step + step - 1
    assert (
        relative(found.sigma(found.timestep(found.sigmas[index : index + 1])), found.sigmas[index : index + 1]) < 1e-5
    )


N = 1000


def test_keep_keeps_what_the_model_has():
    plain = apply_motion_module(sd15(), motion_module(), beta_schedule=KEEP)
    assert torch.equal(sampling_of(plain).sigmas, sampling_of(sd15()).sigmas)
    patched = execute(ModelSamplingDiscrete, sd15(), "lcm", False)
    kept = apply_motion_module(patched, motion_module(), beta_schedule=KEEP)
    assert sampling_of(kept) is sampling_of(patched)
    replaced = apply_motion_module(patched, motion_module(), beta_schedule="average")
    assert len(sampling_of(replaced).sigmas) == N


def test_lcm_samples_as_with_cores_own_node():
    base = apply_motion_module(sd15(), motion_module(), beta_schedule="linear")
    theirs = sample(execute(ModelSamplingDiscrete, base, "lcm", False), sampler="lcm", steps=2, cfg=1.0)
    ours = apply_motion_module(sd15(), motion_module(), beta_schedule="lcm")
    assert relative(sample(ours, sampler="lcm", steps=2, cfg=1.0), theirs) < 1e-5
    other = apply_motion_module(sd15(), motion_module(), beta_schedule="lcm 100")
    assert relative(sample(other, sampler="lcm", steps=2, cfg=1.0), theirs) > 1e-4
