"""Motion modules of some blocks only, put on a MODEL: exactly the whole ones with the other outputs at zero."""

from __future__ import annotations

import dataclasses

import comfy.model_management
import pytest
import torch
from pack.nodes.host.files.loading import load_motion_file
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.page import file_info
from pack.nodes.merging import ScaleMotionBlocks
from pack.unet_motion.formats.names.animatediff import diffusers_to_animatediff
from safetensors.torch import save_file
from small import inputs, motion_module, options, relative, sd15

PARTS = {
    "down": ("down_blocks.",),
    "down and mid": ("down_blocks.", "mid_block."),
    "up": ("up_blocks.1.", "up_blocks."),
}


def part_file(folder, starts):
    whole = motion_module(use_motion_mid_block="mid_block." in starts).state_dict
    state = diffusers_to_animatediff({k: v for k, v in whole.items() if k.startswith(starts)})
    save_file({key: tensor.clone() for key, tensor in state.items()}, folder / "part.safetensors")
    return folder / "part.safetensors"


def silenced(starts):
    whole = motion_module(use_motion_mid_block="mid_block." in starts)
    state = {
        k: torch.zeros_like(v) if ".proj_out." in k and not k.startswith(starts) else v
        for k, v in whole.state_dict.items()
    }
    return dataclasses.replace(whole, state_dict=state)


def run(motion):
    model = apply_motion_module(sd15(), motion, norm_scope="v2")
    comfy.model_management.load_models_gpu([model])
    torch.manual_seed(3)
    out = model.model.diffusion_model(**inputs(3, 8, 8), transformer_options=options())
    comfy.model_management.unload_all_models()
    return out


@pytest.mark.parametrize("part", PARTS)
def test_a_part_acts_as_the_whole_with_the_other_outputs_at_zero(tmp_path, part):
    starts = PARTS[part]
    with pytest.warns(UserWarning, match="the other blocks add no motion"):
        motion = load_motion_file(str(part_file(tmp_path, starts)))
    out = run(motion)
    assert torch.equal(out, run(silenced(starts)))
    assert relative(out, run(motion_module(use_motion_mid_block="mid_block." in starts))) > 1e-3
    assert relative(out, run(motion_module(active=False))) > 1e-3


@pytest.mark.filterwarnings("ignore:.*holds a part")
def test_the_page_names_the_blocks_and_the_scales_act_on_those_that_are_there(tmp_path, monkeypatch):
    path = str(part_file(tmp_path, ("down_blocks.",)))
    monkeypatch.setattr(file_info.paths, "find_motion_module", lambda name: path)
    choice = file_info.describe_motion_module("part.safetensors")
    assert choice.problem is None and "motion in down_blocks.0-3 only" in choice.text
    motion = load_motion_file(path)
    output = ScaleMotionBlocks.execute(motion, 0.0, 1.0, 0.5, "")
    idle = output.args[0] if hasattr(output, "args") else output.result[0]
    assert torch.equal(run(idle), run(silenced(())))
