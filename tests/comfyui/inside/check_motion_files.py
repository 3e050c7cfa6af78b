"""The nodes that mix and scale motion modules, as a graph calls them."""

from __future__ import annotations

import pytest
import torch
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.merging import MergeMotionModules, ScaleMotionBlocks
from pack.unet_motion import MotionAdapter
from pack.unet_motion.formats import MotionModule
from small import WIDTHS, fill, inputs, motion_module, options, relative, sd15


def second():
    adapter = MotionAdapter(block_out_channels=WIDTHS)
    fill(adapter, seed=2)
    return MotionModule.from_adapter(adapter, "second.safetensors")


def call(motion):
    torch.manual_seed(2)
    model = apply_motion_module(sd15(), motion)
    return model.model.diffusion_model(**inputs(2), transformer_options=options())


def only(output):
    return output.args[0] if hasattr(output, "args") else output.result[0]


def test_merged_modules_are_the_weighted_sum_and_blocks_have_their_own():
    a, b = motion_module(), second()
    merged = only(MergeMotionModules.execute(a, b, 0.75, 0.25, "up_blocks.1 = 0, 1\n\n"))
    for key, value in merged.state_dict.items():
        one, two = (0.0, 1.0) if key.startswith("up_blocks.1.") else (0.75, 0.25)
        expected = a.state_dict[key] if key.endswith(".pe") else one * a.state_dict[key] + two * b.state_dict[key]
        assert (value - expected).abs().max() < 1e-6
    assert torch.equal(call(only(MergeMotionModules.execute(a, b, 1.0, 0.0, ""))), call(a))
    assert relative(call(merged), call(a)) > 1e-4
    with pytest.raises(ValueError, match="found 'up_blocks', expected NAME=NUMBER"):
        MergeMotionModules.execute(a, b, 1.0, 0.0, "up_blocks")
    narrow = motion_module(widths=(32, 32, 64, 64))
    with pytest.raises(ValueError, match="block widths 32, 32, 64, 64"):
        MergeMotionModules.execute(a, narrow, 1.0, 1.0, "")


def test_scaled_to_zero_modules_do_nothing_and_the_given_ones_stay():
    a = motion_module()
    before = {key: value.clone() for key, value in a.state_dict.items()}
    idle = only(ScaleMotionBlocks.execute(a, 0.0, 0.0, 0.0, ""))
    assert relative(call(idle), call(motion_module(active=False))) < 1e-6
    half = only(ScaleMotionBlocks.execute(a, 1.0, 1.0, 1.0, "mid_block=0.5"))
    name = "mid_block.motion_modules.0.proj_out.weight"
    assert torch.equal(half.state_dict[name], 0.5 * a.state_dict[name])
    assert relative(call(half), call(a)) > 1e-5
    assert all(torch.equal(value, before[key]) for key, value in a.state_dict.items())
    without = motion_module(use_motion_mid_block=False)
    ScaleMotionBlocks.execute(without, 1.0, 0.5, 1.0, "")
    with pytest.raises(ValueError, match="'side' is no block"):
        ScaleMotionBlocks.execute(a, 1.0, 1.0, 1.0, "side=1")
