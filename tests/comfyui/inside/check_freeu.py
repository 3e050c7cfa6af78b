"""FreeU's presets: the one for the loaded model, and what it does to the bundled model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.host.step.settings import settings
from pack.nodes.options import CUSTOM, PRESETS, FreeU, _preset_for
from pack.unet_motion import MotionPipeline, UNetMotionConfig
from pack.unet_motion.training.bundled_model.export import load_judge
from pack.unet_motion.training.bundled_model.prompts import plain_prompt
from small import motion_module, sd15

FACTORS = ("b1", "b2", "s1", "s2")


def chosen(model, preset, numbers=(1.5, 1.6, 0.9, 0.2)):
    changed = FreeU.execute(model, True, preset, "v1", *numbers, 0.0, 1.0)[0]
    found = settings(changed.model_options["transformer_options"])["freeu"]
    return {name: found[name] for name in FACTORS}


def test_auto_is_the_preset_of_the_loaded_model():
    assert chosen(load_bundled_models()[0], "auto") == PRESETS["bundled"]
    assert chosen(apply_motion_module(sd15(), motion_module(), "v1", "auto"), "auto") == PRESETS["sd1.5"]
    widths = {64: "bundled", 768: "sd1.5", 1024: "sd2.1", 2048: "sdxl"}
    assert {width: _preset_for(UNetMotionConfig(cross_attention_dim=width)) for width in widths} == widths
    with pytest.raises(ValueError, match="no preset is for a UNet with text of width 77: expected 'custom'"):
        _preset_for(UNetMotionConfig(cross_attention_dim=77))


def test_a_preset_by_name_and_numbers_of_ones_own_are_taken_as_they_are():
    model = load_bundled_models()[0]
    assert chosen(model, "sd2.1") == {"b1": 1.4, "b2": 1.6, "s1": 0.9, "s2": 0.2}
    assert chosen(model, CUSTOM, (1.1, 1.2, 0.3, 0.4)) == {"b1": 1.1, "b2": 1.2, "s1": 0.3, "s2": 0.4}


ASKED = [(0, 1), (1, 0), (2, 2), (0, 3)]
"""Shape and colour of a few prompts; see `plain_prompt`."""


def test_the_preset_of_the_bundled_model_leaves_what_it_draws():
    """The judge names shapes and colours as without FreeU; SD1.5's numbers shift the colours."""
    pipeline, judge = MotionPipeline.bundled(), load_judge()
    prompts = [plain_prompt(shape, colour, 0) for shape, colour in ASKED]

    def drawn(factors):
        pipeline.unet.enable_freeu(**factors) if factors else pipeline.unet.disable_freeu()
        clips = [pipeline(prompt, frames=4, steps=8, seed=3, progress=False) for prompt in prompts]
        frames = torch.from_numpy(np.stack([clip[2] for clip in clips])).permute(0, 3, 1, 2).float() / 255
        shapes, colours = judge.frames(frames)
        return np.stack(clips).astype(int), shapes.argmax(-1).tolist(), colours.argmax(-1).tolist()

    plain, ours, theirs = (drawn(factors) for factors in (None, PRESETS["bundled"], PRESETS["sd1.5"]))
    assert plain[1:] == ours[1:] == ([shape for shape, _ in ASKED], [colour for _, colour in ASKED])
    shifts = [np.abs(clips[0] - plain[0]).mean() for clips in (ours, theirs)]
    assert 0.5 < shifts[0] < 8 < shifts[1]
