"""Several motion modules on small models of ComfyUI: values beside the library's, ranges of steps, loading together."""

from __future__ import annotations

import dataclasses

import comfy.model_management as mm
import pytest
import torch
from check_over_time import FRAMES, call, curve
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.more_motion import AddMotionModule, steps_between
from pack.nodes.over_time import MotionAmount
from pack.unet_motion import ForwardOptions, MoreMotion
from pack.unet_motion import MotionAdapter as Adapter
from pack.unet_motion import MotionAmount as Amount
from pack.unet_motion.formats import MotionModule
from sampled import sample
from small import WIDTHS, fill, inputs, motion_module, relative, sd15


@pytest.fixture(scope="module")
def moving():
    return apply_motion_module(sd15(), motion_module())


def other_module(seed=4, **config):
    adapter = Adapter(block_out_channels=WIDTHS, **config)
    fill(adapter, seed=seed)
    return MotionModule.from_adapter(adapter, "other.safetensors")


def add(model, module, effect=1.0, scale=1.0, start=0.0, end=1.0, norm_scope="auto", **curves):
    return AddMotionModule.execute(model, module, effect, scale, start, end, norm_scope, **curves).result[0]


def by_core(model, module, amounts, scope, timestep=600.0):
    adapter = Adapter(**{name: module.config[name] for name in module.config.field_names()})
    adapter.load_state_dict(module.state_dict)
    torch.manual_seed(2)
    given = inputs(FRAMES, 8, 8)
    more = [MoreMotion(adapter.requires_grad_(False), amounts, scope)]
    with torch.inference_mode():
        return model.model.diffusion_model.core.forward_frames(
            given["x"], torch.full((2 * FRAMES,), timestep), given["context"], FRAMES,
            options=ForwardOptions(more_motion=more),
        )  # fmt: skip


def test_two_equal_modules_at_half_are_one_and_another_adds_what_the_library_says(moving):
    plain, half = call(moving), MotionAmount.execute(moving, 1.0, 0.5, "").result[0]
    assert relative(call(add(half, motion_module(), 0.5)), plain) < 1e-5
    assert torch.equal(call(add(moving, motion_module(), 0.0)), plain)
    other = other_module()
    for scope, name in (("frame", "v2"), ("clip", "diffusers")):
        found = call(add(moving, other, 0.7, 1.2, norm_scope=name, effect_curve=curve("0:0, 3:1")))
        effect = 0.7 * torch.tensor([0, 1 / 3, 2 / 3, 1])
        expected = by_core(moving, other, [Amount(scale=1.2, effect=effect)], scope)
        assert relative(found, expected) < 1e-5 < 1e-3 < relative(found, plain)
    assert torch.equal(call(moving), plain)


def test_modules_act_in_their_part_of_the_sampling(moving):
    late, plain = add(moving, other_module(), start=0.5), call(moving, 800.0)
    assert relative(call(late, 800.0), plain) < 1e-6
    assert relative(call(late, 300.0), call(add(moving, other_module()), 300.0)) < 1e-6
    early = add(MotionAmount.execute(late, 1.0, 0.0, "").result[0], other_module(), end=0.5)
    still = MotionAmount.execute(moving, 1.0, 0.0, "").result[0]
    assert relative(call(early, 800.0), call(add(still, other_module()), 800.0)) < 1e-6
    assert steps_between(0.0, 1.0) == [] and steps_between(0.25, 0.75)[0].value_at(0.75) == 0
    assert [steps_between(0.25, 0.75)[0].value_at(share) for share in (0.2, 0.25, 0.5, 0.8)] == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="`start_percent` is 0.5, expected less than `end_percent` 0.5"):
        add(moving, other_module(), start=0.5, end=0.5)


def test_they_are_loaded_with_the_model_and_stay_with_its_copies(moving):
    model = add(add(moving, other_module()), other_module(5)).clone()
    assert len(model.get_nested_additional_models()) == 2 and moving.get_nested_additional_models() == []
    assert model.model is moving.model
    found = sample(model)
    loaded = [entry.model.model for entry in mm.current_loaded_models if entry.model is not None]
    assert all(any(more.model is known for known in loaded) for more in model.get_nested_additional_models())
    assert relative(found, sample(moving)) > 1e-3
    assert relative(found, sample(add(moving, other_module()))) > 1e-3


def test_modules_without_a_place_are_refused(moving):
    narrow = dataclasses.replace(other_module(), path=motion_module().path)
    plain = apply_motion_module(sd15(), other_module(use_motion_mid_block=False))
    with pytest.raises(ValueError, match="small_motion.safetensors: `more_motion` has mid_block.motion_modules.0"):
        add(plain, narrow)
    with pytest.raises(ValueError, match="put Apply Motion Module before"):
        add(sd15(), other_module())
    adapter = Adapter(block_out_channels=(32, 64, 128, 64))
    fill(adapter)
    with pytest.raises(ValueError, match="is a motion module for .* but `model` is"):
        add(moving, MotionModule.from_adapter(adapter, "wide.safetensors"))
    with pytest.raises(ValueError, match="brings layers for pictures"):
        add(moving, other_module(conv_in_channels=9))
