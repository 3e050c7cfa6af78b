"""Fewer full steps in ComfyUI: against plain runs whose deep part and guidance are replaced from outside."""

from __future__ import annotations

import logging

import comfy_extras.nodes_pag as pag
import pytest
import torch
from check_context_windows import windowed
from check_control import controlled, controlnet, hints
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from pack.nodes.host.step.context_windows import STEP_CACHE
from pack.nodes.host.step.step_cache import set_step_cache
from pack.nodes.sampling import MotionSampler
from pack.nodes.step_cache import StepCacheNode
from pack.unet_motion.sampling.step_cache import PRESETS, StepCache
from sampled import execute, models, noise, sample, text

STEPS = 6
CACHE = StepCache(interval=2, layers=1, first=0.2, last=0.1, order=0)
"""Of six steps 0, 1, 3 and 5 are full."""
FULL = {0, 1, 3, 5}
CUSTOM = {
    "preset": "custom", "interval": 2, "layers": 1, "guidance_interval": 1, "guidance_start": 0.0, "guidance_end": 1.0,
    "first": 0.2, "last": 0.1, "keeps": "last", "memory": 4.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return models(active=True, shallow=True)[1]


def core_of(model):
    return model.model.diffusion_model.core


class Replaced:
    """A plain run in which the last layer gets the deep part's result of the last full step, call by call.

    Args:
        calls: of the network in each step.
    """

    def __init__(self, model, calls=1):
        self.resnet, self.calls, self.count, self.kept = core_of(model).up_blocks[-1].resnets[-1], calls, 0, {}
        self.channels = core_of(model).config.block_out_channels[0]

    def __enter__(self):
        self.handle = self.resnet.register_forward_pre_hook(self.look)
        return self

    def __exit__(self, *_):
        self.handle.remove()

    def look(self, module, args):
        step, call = divmod(self.count, self.calls)
        self.count += 1
        joined = args[0]
        if step in FULL:
            self.kept[call] = joined[:, : self.channels].clone()
            return None
        return (torch.cat([self.kept[call], joined[:, self.channels :]], 1), *args[1:])


class Calls:
    """How often, and on how many rows, the network ran."""

    def __init__(self, model):
        core = core_of(model)
        self.rows, self.deep = [], []
        self.handles = [
            core.conv_in.register_forward_pre_hook(lambda _, args: self.rows.append(len(args[0]))),
            core.mid_block.register_forward_pre_hook(lambda _, args: self.deep.append(len(args[0]))),
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def near(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_whole_steps_change_no_bit_and_shallow_ones_are_the_last_layer_alone(model):
    plain = sample(model, steps=STEPS)
    whole = set_step_cache(model, StepCache(interval=4, guidance_interval=4, first=1.0))
    assert torch.equal(sample(whole, steps=STEPS), plain)
    cached = execute(StepCacheNode, model, **CUSTOM)
    with Calls(model) as calls:
        found = sample(cached, steps=STEPS)
    assert calls.rows == [6] * STEPS and calls.deep == [6] * len(FULL)
    with Replaced(model):
        expected = sample(model, steps=STEPS)
    assert near(found, expected) < 1e-5 < 1e-3 < near(found, plain)
    # Another run begins anew, and the model that was put in is as it was.
    assert torch.equal(sample(cached, steps=STEPS), found)
    assert torch.equal(sample(model, steps=STEPS), plain)
    assert torch.equal(sample(execute(StepCacheNode, cached, **{**CUSTOM, "preset": "off"}), steps=STEPS), plain)


def test_halves_that_run_apart_keep_each_their_own(model, monkeypatch):
    cached = set_step_cache(model, CACHE)
    together = sample(cached, steps=STEPS)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *_, **__: 1 << 60)
    with Calls(model) as calls:
        apart = sample(cached, steps=STEPS)
    assert calls.rows == [3] * 2 * STEPS and calls.deep == [3] * 2 * len(FULL)
    assert near(apart, together) < 1e-5


def kept_guidance(model, computed, off=()):
    """A clone of a MODEL with the difference that guidance makes taken from the last of some steps."""
    clone, state = model.clone(), {"step": 0}

    def mix(arguments):
        step, sigma = state["step"], arguments["sigma"].flatten()[0]
        state["step"] += 1
        if step in off:
            return arguments["cond"]
        if step in computed:
            # Of predictions of the noise: what ComfyUI gives is multiplied with sigma.
            state["difference"] = (arguments["cond"] - arguments["uncond"]) / sigma
        return arguments["cond"] + (arguments["cond_scale"] - 1) * state["difference"] * sigma

    clone.set_model_sampler_cfg_function(mix)
    return clone


def test_guidance_is_kept_and_left_out(model):
    cached = set_step_cache(model, StepCache(guidance_interval=2, first=0.2, last=0.1, order=0))
    with Calls(model) as calls:
        found = sample(cached, steps=STEPS)
    assert calls.rows == [6, 6, 3, 6, 3, 6]
    expected = sample(kept_guidance(model, FULL), steps=STEPS)
    assert near(found, expected) < 1e-5
    part = set_step_cache(model, StepCache(guidance_start=0.3, guidance_end=0.8))
    with Calls(model) as calls:
        found = sample(part, steps=STEPS)
    assert calls.rows == [3, 3, 6, 6, 6, 3]
    expected = sample(kept_guidance(model, range(STEPS), off=(0, 1, 5)), steps=STEPS)
    assert near(found, expected) < 1e-5


def test_both_together_and_a_half_that_comes_back(model):
    both = set_step_cache(model, StepCache(2, 1, 2, first=0.2, last=0.1, order=0))
    with Calls(model) as calls:
        found = sample(both, steps=STEPS)
    assert calls.rows == [6, 6, 3, 6, 3, 6] and calls.deep == [6] * 4
    with Replaced(model) as replaced:
        expected = sample(kept_guidance(model, FULL), steps=STEPS)
    assert replaced.count == STEPS and near(found, expected) < 1e-5


def test_windows_keep_each_their_own(model):
    start = noise(6)
    still = windowed(model, length=4, overlap=2, schedule="standard_static")
    found = sample(set_step_cache(still, CACHE), steps=STEPS, start=start)
    with Replaced(model, calls=2) as replaced:
        expected = sample(still, steps=STEPS, start=start)
    assert replaced.count == 2 * STEPS and near(found, expected) < 1e-5
    moving = windowed(model, length=4, overlap=2, schedule="standard_uniform")
    with Calls(model) as calls:
        assert sample(set_step_cache(moving, CACHE), steps=STEPS, start=start).isfinite().all()
    assert len(calls.deep) / len(calls.rows) == pytest.approx(len(FULL) / STEPS, abs=0.1)


def test_a_second_call_with_the_same_conds_keeps_its_own(model):
    """Perturbed attention calls the model once more in each step, with the prompt's cond and another attention."""
    perturbed = execute(pag.PerturbedAttentionGuidance, model, 3.0)
    found = sample(set_step_cache(perturbed, CACHE), steps=STEPS)
    with Replaced(model, calls=2) as replaced:
        expected = sample(perturbed, steps=STEPS)
    assert replaced.count == 2 * STEPS and near(found, expected) < 1e-5


def test_control_acts_in_both_parts(model):
    both = controlled(controlnet(num_res_blocks=[1] * 4), images=hints(3))
    found = sample(set_step_cache(model, CACHE), **both, steps=STEPS)
    with Replaced(model):
        expected = sample(model, **both, steps=STEPS)
    assert near(found, expected) < 1e-5
    assert near(found, sample(set_step_cache(model, CACHE), steps=STEPS)) > 1e-3


def test_several_clips_of_the_motion_sampler(model):
    latent = {"samples": torch.zeros(4, 4, 8, 8)}
    given = (3, STEPS, 3.0, "euler", "normal", text(1), text(2), latent, 1.0, 2)
    found = MotionSampler.execute(set_step_cache(model, CACHE), *given)[0]["samples"]
    with Replaced(model):
        expected = MotionSampler.execute(model, *given)[0]["samples"]
    assert near(found, expected) < 1e-5


def test_nothing_stays_behind_a_run_and_the_log_tells_what_was_left_out(model, caplog):
    cached = set_step_cache(model, PRESETS["fast"])
    with caplog.at_level(logging.INFO):
        sample(cached, steps=STEPS)
    told = [record.message for record in caplog.records if record.message.startswith("Step cache:")]
    assert len(told) == 1 and f"of {STEPS} calls of the network were full" in told[0]
    assert STEP_CACHE not in cached.model_options["transformer_options"]
    caplog.clear()
    cached.model_options[TORCH_COMPILE_KWARGS] = {}
    sample(cached, steps=1)
    assert any("compiled code keeps nothing" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"preset": "quick"}, "`preset` is 'quick', expected one of careful"),
        ({"keeps": "both"}, "`keeps` is 'both', expected one of line"),
        ({"layers": 3}, "`layers` is 3, expected 1 to 2, the layers of the model's last up block"),
        ({"guidance_start": 0.6, "guidance_end": 0.6}, "`guidance_start` of the step cache is 0.6"),
    ],
)
def test_what_does_not_go_is_refused(model, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        StepCacheNode.execute(model, **{**CUSTOM, **changes})


@pytest.mark.parametrize("name", ["EasyCacheNode", "LazyCacheNode"])
def test_caches_of_core_skip_steps_of_the_model(model, name):
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    node = getattr(nodes, name)
    plain = sample(model, steps=12)
    with Calls(model) as calls:
        none = sample(execute(node, model, 0.0, 0.15, 0.95, False), steps=12)
    assert torch.equal(none, plain) and len(calls.rows) == 12
    with Calls(model) as calls:
        try:
            some = sample(execute(node, model, 0.5, 0.15, 0.95, False), steps=12)
        except RuntimeError:
            # An older one adds what one cond changed to the batch of both, whatever the model is.
            with pytest.raises(RuntimeError):
                sample(execute(node, models(shallow=True)[0], 0.5, 0.15, 0.95, False), steps=12)
            pytest.skip("this ComfyUI's node takes no batch of several latents")
    assert len(calls.rows) < 12 and 0 < near(some, plain) < 0.5
