"""What an error quotes is cut, however long what came in is."""

import json

import pytest
import torch

from unet_motion import ContextWindows, ForwardOptions, FreeU
from unet_motion.config.unet import UNetMotionConfig
from unet_motion.formats.convert import convert
from unet_motion.forward.motion_amount import MotionAmount, check_block
from unet_motion.ops.attention.processors import get_processor
from unet_motion.ops.mode import use
from unet_motion.sampling.free_init import FreeInit
from unet_motion.sampling.noise import NoiseMix, seeded_generator
from unet_motion.sampling.noise_schedule import NoiseSchedule
from unet_motion.sampling.samplers import get_sampler
from unet_motion.schedule import Curve, PromptSchedule, Timeline
from unet_motion.training.optimizers import make_optimizer
from unet_motion.training.recipe import MotionRecipe

LONG = "word " * 3000
CALLS = {
    "`schedule`": lambda: ContextWindows(schedule=LONG),
    "`fuse`": lambda: ContextWindows(fuse=LONG),
    "`version`": lambda: FreeU(1, 1, 1, 1, version=LONG),
    "`forward_chunking`": lambda: ForwardOptions(forward_chunking=LONG),
    "`frames_at_once`": lambda: ForwardOptions(frames_at_once=LONG),
    "`scale`": lambda: MotionAmount(scale=LONG),
    "`blocks`": lambda: check_block(LONG, [("down_blocks.0.motion_modules.0", torch.nn.Identity())]),
    "`filter`": lambda: FreeInit(filter=LONG),
    "noise is": lambda: NoiseMix.parse(LONG),
    "seed": lambda: seeded_generator(LONG),
    "prediction": lambda: NoiseSchedule(torch.ones(4), prediction=LONG),
    "sampler": lambda: get_sampler(LONG),
    "`text`": lambda: Curve.parse("text", LONG),
    "`name`": lambda: Timeline.parse("name", json.dumps({"prompts": LONG})),
    "`optimizer`": lambda: make_optimizer(LONG, [torch.nn.Parameter(torch.zeros(2))], 1e-3, 0.0),
    "`schedule` is": lambda: MotionRecipe(schedule=LONG),
    "kernels": lambda: use(LONG).__enter__(),
    "attention processor": lambda: get_processor(LONG),
    "`act_fn`": lambda: UNetMotionConfig(act_fn=LONG),
    "`resnet_norm_scope`": lambda: UNetMotionConfig(resnet_norm_scope=LONG),
    "form is": lambda: convert("a", "b", LONG),
    "line": lambda: PromptSchedule.parse("prompts", '"0": "a" ' + LONG),
}


@pytest.mark.parametrize("named", CALLS)
def test_an_error_of_a_long_text_is_one_short_line(named):
    with pytest.raises(ValueError) as error:
        CALLS[named]()
    text = str(error.value)
    assert named.strip("`") in text and "word word" in text and len(text) < 600 and "\n" not in text
