"""The Timeline node beside the nodes that do its parts, and LoRA hooks beside the LoRA itself, on the bundled model."""

from __future__ import annotations

import json

import comfy.hooks
import comfy.sample
import pytest
import torch
from check_over_time import curve
from pack.nodes.host.lora import load_motion_lora, lora_hooks
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.lora import MotionLoRAHook
from pack.nodes.over_time import Guidance, MotionAmount, PromptTravel
from pack.nodes.timeline import DEFAULT, TimelineNode
from pack.unet_motion.bundled.loras import motion_lora_path

FRAMES = 4
PROMPTS = {"keys": [{"at": 0, "text": "a red star --neg a moon", "way": "smooth"}, {"at": 3, "text": "a blue star"}]}
CURVES = {
    "scale": [1, 1.2, 0.9, 1],
    "effect": {"keys": [{"at": 0, "value": 0}, {"at": -1, "value": 1}]},
    "cfg": {"over": "steps", "keys": [[0, 4, "hold"], [0.5, 2]]},
    "strength": [[0, 0.5], [3, 2]],
}


@pytest.fixture(scope="module")
def bundled():
    model, clip, _ = load_bundled_models()
    return model, clip


def run(model, positive, negative, cfg=3.0, steps=2):
    start = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return comfy.sample.sample(
        model, start, steps, cfg, "euler", "normal", positive, negative, torch.zeros_like(start), disable_pbar=True,
        seed=3,
    )  # fmt: skip


def line(bundled, found, frames=FRAMES):
    return TimelineNode.execute(*bundled, json.dumps(found), frames).result


def test_a_timeline_is_what_the_nodes_of_its_parts_are(bundled):
    model, positive, negative, strength = line(bundled, {"prompts": PROMPTS, "curves": CURVES})
    texts = PromptTravel.execute(bundled[1], json.dumps(PROMPTS), FRAMES, "", "", "linear").result
    amount = MotionAmount.execute(bundled[0], 1.0, 1.0, "", CURVES["scale"], curve("0:0, -1:1")).result[0]
    guided = Guidance.execute(amount, 1.0, curve("0:4 hold, 0.5:2", "steps")).result[0]
    found, expected = run(model, positive, negative), run(guided, *texts)
    assert torch.equal(found, expected)
    assert not torch.equal(found, run(bundled[0], *texts))
    assert strength[0].values(FRAMES).tolist() == [0.5, 1.0, 1.5, 2.0]
    plain, *_, none = line(bundled, {"prompts": PROMPTS})
    assert plain is bundled[0] and none == ()


def test_what_a_timeline_cannot_hold_is_named(bundled):
    assert TimelineNode.execute(*bundled, DEFAULT, 16).result[1][0][0].shape[0] == 16
    for found, frames, sentence in (
        ({"prompts": PROMPTS}, 1, "`timeline`: 3 is never reached: the clip has 1 frames"),
        ({"prompts": PROMPTS, "curves": {"effect": [1, 2, 3]}}, 2, "`timeline`: the curve 'effect': found a list of 3"),
        ({"prompts": PROMPTS, "curves": {"size": 1}}, 4, "`timeline`: found the curve 'size', expected one of scale"),
        ({"prompts": PROMPTS, "curves": {"cfg": [[0, 1], [9, 2], [99, 3]]}}, 4, "`timeline`: the curve 'cfg': 99 is"),
    ):
        with pytest.raises(ValueError, match=sentence):
            line(bundled, found, frames)
    with pytest.raises(ValueError, match="`clip` is empty"):
        TimelineNode.execute(bundled[0], None, DEFAULT, 16)


def test_a_lora_as_hooks_is_the_lora_itself_for_what_carries_them(bundled):
    model, clip = bundled
    texts = PromptTravel.execute(clip, '"0": "a red star still"', FRAMES, "", "", "linear").result
    path = str(motion_lora_path("pan-left"))
    plain = run(model, *texts)
    for strength in (1.0, -0.5):
        hooks = lora_hooks(model, path, strength)
        hooked = run(model, *(comfy.hooks.set_hooks_for_conditioning(text, hooks) for text in texts))
        itself = run(load_motion_lora(model, path, strength, "", ""), *texts)
        assert float((hooked - itself).norm() / itself.norm()) < 1e-5
        assert float((hooked - plain).norm() / plain.norm()) > 1e-2
    assert torch.equal(run(model, *texts), plain)
    both = MotionLoRAHook.execute(model, "pan-left (bundled)", 1.0, lora_hooks(model, path, -0.5)).result[0]
    half = run(model, *(comfy.hooks.set_hooks_for_conditioning(text, both) for text in texts))
    itself = run(load_motion_lora(model, path, 0.5, "", ""), *texts)
    assert float((half - itself).norm() / itself.norm()) < 1e-4
