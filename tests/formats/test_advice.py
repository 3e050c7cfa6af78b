"""Advice about settings that give noise without an error."""

import pytest

from unet_motion.formats.advice import RunSettings, advise
from unet_motion.formats.kinds import MOTION_MODULES

USUAL = {
    name: RunSettings(
        kind.frames, kind.sampler, kind.steps, kind.guidance, 1024 * 1024, (kind.comfy_schedule, kind.beta_end)
    )
    for name, kind in MOTION_MODULES.items()
}


@pytest.mark.parametrize("name", MOTION_MODULES)
def test_what_a_kind_was_made_for_needs_no_advice(name):
    assert advise(MOTION_MODULES[name], USUAL[name]) is None
    assert advise(MOTION_MODULES[name], RunSettings(16, "euler", 8)) is None


CASES = [
    ("lcm", dict(sampler="euler", steps=25, guidance=7.5), "guidance 7.5 burns its pictures"),
    ("lcm", dict(sampler="euler", steps=25, guidance=1.0), "25 steps of euler are more than it needs"),
    ("lcm_i2v", dict(guidance=8.0), "guidance 8 burns"),
    ("lightning", dict(guidance=7.5), "guidance 7.5 burns its pictures"),
    ("lightning", dict(steps=25), "25 steps of euler are more than it needs"),
    ("lightning", dict(schedule=("linear", 0.012)), "its noise schedule is sqrt_linear, here it is linear"),
    ("v3", dict(frames=4), "below 8 frames, here 4, clips come out as noise"),
    ("v2", dict(schedule=("linear", 0.012)), "its noise schedule is sqrt_linear, here it is linear"),
    ("hotshot", dict(schedule=("sqrt_linear", 0.012)), "its noise schedule is linear, here it is sqrt_linear"),
    ("sdxl", dict(schedule=("linear", 0.012)), "its noise schedule is linear to 0.02, here it is linear"),
    ("sdxl", dict(pixels=256 * 256), "frames of 65536 pixels are too small for it"),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), CASES)
def test_what_gives_noise_is_named_in_one_line(name, changes, sentence):
    from dataclasses import replace

    told = advise(MOTION_MODULES[name], replace(USUAL[name], **changes))
    assert sentence in told and "\n" not in told and told.endswith(".") and "was made for" in told


def test_several_are_one_sentence_and_a_picture_alone_is_none():
    told = advise(MOTION_MODULES["lcm"], RunSettings(4, "euler", 25, 7.5))
    assert told == (
        "An AnimateLCM motion module was made for 16 frames, lcm, 6 steps, guidance 1.5: guidance 7.5 burns its "
        "pictures; below 8 frames, here 4, clips come out as noise."
    )
    assert advise(MOTION_MODULES["v3"], RunSettings(1, "euler", 20)) is None
