"""Another guidance or ControlNet for a stretch of frames by core's own masks: as in the template
`guidance_and_controlnet_on_some_frames`, each frame against a run with that constant on all frames."""

from __future__ import annotations

import pytest
import torch
from check_control import controlled, controlnet, hints
from check_over_time import amount, curve
from comfy_extras.nodes_hooks import ConditioningSetProperties, PairConditioningCombine, PairConditioningSetProperties
from pack.nodes.strengths import MaskStrength
from sampled import execute, models, sample, text
from small import relative

from nodes import ConditioningCombine

FRAMES, CFG = 4, 3.0
WEAKER = 0.6
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def still():
    """Motion modules that act, at effect 0: the frames do not see each other."""
    return amount(models(active=True)[1], effect=0.0)


def masks():
    """White in frames 0 and 1, and the inverse."""
    first = execute(MaskStrength, torch.ones(1, 64, 64), FRAMES, 1.0, curve("0:1 hold, 2:0"))
    assert first.shape[0] == FRAMES and first[:, 0, 0].tolist() == [1, 1, 0, 0]
    return first, 1 - first


def in_frames(given, mask, strength=1.0):
    pair = PairConditioningSetProperties().set_properties(*given, strength, "default", mask=mask)
    return list(pair)


def together(first, second):
    positive, negative = PairConditioningCombine().combine(*first, *second)
    return {"positive": positive, "negative": negative}


def mixed(first, second, mask, share):
    """Two pairs for their frames; in those of the second the guidance is that share of the sampler's."""
    given = together(first, in_frames(second, mask, share))
    rest = ConditioningSetProperties().set_properties(second[1], 1 - share, "default", mask=mask)[0]
    return {**given, "positive": ConditioningCombine().combine(given["positive"], rest)[0]}


def check(found, first, second):
    for frame, constant in enumerate((first, first, second, second)):
        other = second if constant is first else first
        assert relative(found[frame : frame + 1], constant[frame : frame + 1]) < TOLERANCE
        assert relative(found[frame : frame + 1], other[frame : frame + 1]) > 1e-3


@pytest.mark.parametrize("steps", [1, 2])
def test_a_stretch_with_less_guidance_is_a_run_with_that_guidance(still, steps):
    early, late = masks()
    prompts = [text(1), text(2)]
    run = {"frames": FRAMES, "steps": steps}
    found = sample(still, **mixed(in_frames(prompts, early), prompts, late, WEAKER), cfg=CFG, **run)
    check(found, sample(still, cfg=CFG, **run), sample(still, cfg=CFG * WEAKER, **run))


def test_a_stretch_with_a_control_net_is_a_run_with_it(still):
    early, late = masks()
    given = controlled(controlnet(), images=hints(FRAMES))
    prompts = [text(1), text(2)]
    pairs = in_frames(list(given.values()), early), in_frames(prompts, late)
    found = sample(still, **together(*pairs), frames=FRAMES)
    check(found, sample(still, **given, frames=FRAMES), sample(still, frames=FRAMES))


def test_both_together_as_in_the_template(still):
    early, late = masks()
    given = controlled(controlnet(), images=hints(FRAMES), strength=0.7)
    found = sample(still, **mixed(in_frames(list(given.values()), early), [text(1), text(2)], late, WEAKER),
                   frames=FRAMES)  # fmt: skip
    check(found, sample(still, **given, frames=FRAMES), sample(still, frames=FRAMES, cfg=CFG * WEAKER))
