"""Branches of a graph: settings survive clones, never leak, and many prompts leave the memory flat."""

from __future__ import annotations

import copy
import gc

import comfy.model_patcher
import comfy.sample
import psutil
import pytest
import torch
from check_apply import with_lora
from comfy_extras.nodes_model_advanced import RescaleCFG
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.host.step.amounts import VaryingAmount
from pack.nodes.host.step.context_windows import ClipWindows, WindowPart
from pack.nodes.host.step.more_motion import VaryingMotion
from pack.nodes.host.step.strengths import VaryingLora
from pack.nodes.host.step.varying import Varying
from pack.nodes.options import AttentionProcessor, ForwardChunking, FreeU
from pack.unet_motion.sampling import ContextWindows
from small import motion_module, sd15


def freeu(model):
    return FreeU.execute(model, True, "sd1.5", "v1", 1.0, 1.0, 1.0, 1.0, 0.0, 1.0)[0]


def attention(model):
    return AttentionProcessor.execute(model, "math", "sliced")[0]


def chunking(model):
    return ForwardChunking.execute(model, True, 2, "frames")[0]


SETTERS = {"freeu": freeu, "attention": attention, "chunking": chunking}
LATER = {
    "a plain clone": lambda model: model.clone().clone(),
    "a LoRA": with_lora,
    "RescaleCFG": lambda model: RescaleCFG().patch(model, 0.7)[0],
    "another motion module": lambda model: apply_motion_module(model, motion_module(use_motion_mid_block=False)),
}


def settings(model):
    return model.model_options["transformer_options"].get("unet_motion", {})


@pytest.mark.parametrize("later", LATER)
def test_settings_survive_every_later_node_and_reach_no_other_branch(later):
    root = apply_motion_module(sd15(), motion_module())
    branches = {name: setter(root) for name, setter in SETTERS.items()}
    joined = root
    for setter in SETTERS.values():
        joined = setter(joined)
    after = LATER[later](joined)
    assert settings(after) == settings(joined) and set(settings(after)) == set(SETTERS)
    assert settings(root) == {}
    for name, branch in branches.items():
        assert set(settings(LATER[later](branch))) == {name}
    settings(after)["freeu"]["b1"] = 99
    assert settings(joined)["freeu"]["b1"] == settings(branches["freeu"])["freeu"]["b1"] == 1.5


def prompt(model, cond):
    latent = torch.zeros(2, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    return comfy.sample.sample(model, noise, 1, 1.0, "euler", "normal", cond, cond, latent, disable_pbar=True, seed=1)


def patchers():
    gc.collect()
    return sum(issubclass(type(item), comfy.model_patcher.ModelPatcher) for item in gc.get_objects())


def test_a_hundred_prompts_in_a_row_leave_memory_flat_and_the_first_picture():
    model, clip, _ = load_bundled_models()
    cond = clip.encode_from_tokens_scheduled(clip.tokenize("a red star moving left"))
    first = prompt(model, cond)
    for _ in range(5):
        prompt(freeu(attention(model)), cond)
    gc.collect()
    count, tensors = patchers(), sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())
    memory = psutil.Process().memory_info().rss
    for _ in range(100):
        changed = prompt(freeu(chunking(model)), cond)
    del _
    assert patchers() <= count + 1
    assert sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()) <= tensors + 10
    assert psutil.Process().memory_info().rss - memory < 24 * 2**20
    assert not torch.equal(changed, first)
    assert torch.equal(prompt(model, cond), first)


def test_settings_that_nothing_changes_are_not_copied():
    """Other packs copy a MODEL's options deeply: weights stay one, and what a group or a device knows stays known."""
    whole = Varying(0.5)
    amount = VaryingAmount(whole, whole, mask=torch.ones(1, 2, 2))
    adapter = torch.nn.Linear(2, 2)
    own = (
        whole, amount, VaryingMotion(adapter, amount, "clip"), VaryingLora("a", {"x": torch.ones(1)}, whole),
        ClipWindows([WindowPart(ContextWindows(8), 1, False, 0.0, 1.0, False, 0)]),
    )  # fmt: skip
    copied = copy.deepcopy({"unet_motion": list(own)})["unet_motion"]
    assert all(found is kept for found, kept in zip(copied, own, strict=True))
