"""What amounts and prompts over time do to clips of the bundled model, as its judge sees them."""

import pytest
import torch

from unet_motion import ForwardOptions, MotionAmount, MotionPipeline, PromptSchedule, load_motion_lora
from unet_motion.bundled import motion_lora_path
from unet_motion.training.bundled_model.drawn_clips import COLOUR_NAMES
from unet_motion.training.bundled_model.export import load_judge
from unet_motion.training.bundled_model.judge import centroid_path
from unet_motion.training.bundled_model.shapes import SHAPES


@pytest.fixture(scope="module")
def pipe():
    return MotionPipeline.bundled()


def clip(pipe, prompt, **more):
    """(16, 3, 64, 64) in [0, 1]."""
    frames = pipe(prompt, seed=7, steps=6, progress=False, **more)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def xs(frames):
    return centroid_path(frames[None])[0][0, :, 0]


def test_without_effect_a_clip_is_still_and_movement_rises_with_it(pipe):
    moved = []
    for effect in (0.0, 0.3, 1.0):
        options = ForwardOptions(motion_amounts=[MotionAmount(effect=effect)])
        frames = clip(pipe, "a red star moving left", noise="constant", options=options)
        if effect == 0:
            assert torch.equal(frames, frames[:1].expand_as(frames))
        moved.append(float(xs(frames)[:2].mean() - xs(frames)[-2:].mean()))
    assert moved[0] == 0 and moved[0] + 10 < moved[1] < moved[2] - 3


def test_prompts_that_travel_change_the_colour_where_asked_and_keep_the_shape(pipe):
    judge = load_judge()
    held = clip(pipe, PromptSchedule.parse("p", '"0:7": "a red star", "8:": "a blue star"'))
    mixed = clip(pipe, PromptSchedule.parse("p", '"0": "a red star", "15": "a blue star"'))
    for frames, reds, blues in ((held, range(7), range(9, 16)), (mixed, range(5), range(11, 16))):
        shape, colour = (logits.argmax(-1).tolist() for logits in judge.frames(frames))
        names = [COLOUR_NAMES[number] for number in colour]
        assert {names[frame] for frame in reds} == {"red"} and {names[frame] for frame in blues} == {"blue"}
        assert {list(SHAPES)[number] for number in shape} == {"star"}


def test_a_lora_that_pans_on_the_first_half_only(pipe):
    lora = load_motion_lora(pipe.unet, motion_lora_path("pan-left")).at([1.0] * 8 + [0.0] * 8)
    path, plain = (xs(clip(pipe, "a red star", options=ForwardOptions(motion_loras=m))) for m in ([lora], []))
    first, second = (float((path[a] - path[b]).abs()) for a, b in ((0, 7), (8, 15)))
    assert first > 3 > 2 * second and first > 3 * float((plain[0] - plain[7]).abs())
