"""Fewer full steps: plans, what is kept, and whole runs against loops written here."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.reference import TINY, randomise
from tests.sampling.test_pipeline import WIDTH, Autoencoder, TextEncoder, Tokenizer, clip
from unet_motion import (
    ContextWindows,
    ForwardOptions,
    FreeInit,
    FreeU,
    ImageInjection,
    MotionPipeline,
    StepCache,
    UNetMotionModel,
)
from unet_motion.forward.lora import MotionLora
from unet_motion.forward.motion_amount import MotionAmount
from unet_motion.sampling import STEP_CACHES, frame_noise, seeded_generator
from unet_motion.sampling.step_cache.kept import Kept
from unet_motion.sampling.windowed import of_prompt, options_of
from unet_motion.schedule import Curve, PromptSchedule

STEPS = 9
BOTH = StepCache(interval=3, guidance_interval=2, first=0.2, last=0.1)
"""Of nine steps the first two and the last are whole."""


@pytest.fixture(scope="module")
def pipeline():
    unet = UNetMotionModel(**{**TINY, "cross_attention_dim": WIDTH, "motion_max_seq_length": 8})
    return MotionPipeline(randomise(unet).eval(), TextEncoder(), Tokenizer(), Autoencoder())


def latents(pipeline, monkeypatch, **changes):
    """The latents of a clip before they are decoded."""
    found = []

    def decode(x):
        found.append(x.clone())
        return x

    monkeypatch.setattr(pipeline, "decode", decode)
    clip(pipeline, **{"steps": STEPS, **changes})
    return found[0]


def test_steps_in_parts_under_graphs_are_those_without_and_kept_for_their_layers(pipeline, monkeypatch):
    expected = latents(pipeline, monkeypatch, step_cache=BOTH)
    monkeypatch.setattr(pipeline, "cuda_graphs", True)
    made = []
    for layers in (0, 0, 1):
        cache = replace(BOTH, layers=layers)
        found = latents(pipeline, monkeypatch, step_cache=cache)
        if not layers:
            assert torch.equal(found, expected)
        (pair,) = pipeline._part_graphs.values()
        made.append(pair)
        assert pipeline._parts(cache, graphs=True) is pair
    assert made[0] is made[1] is not made[2]
    assert pipeline._parts(StepCache(interval=1), graphs=True) is None


def test_which_steps_are_full():
    def words(cache, steps):
        plan = [cache.step(number, steps) for number in range(steps)]
        guidance = {"computed": "c", "kept": "k", "off": "-"}
        return "".join("F" if step.full else "." for step in plan), "".join(guidance[step.guidance] for step in plan)

    assert words(StepCache(), 6) == ("FFFFFF", "cccccc")
    assert words(BOTH, STEPS) == ("FF..F..FF", "cckckckcc")
    assert words(StepCache(interval=4, first=0, last=0), 10) == ("F...F...F.", "cccccccccc")
    assert words(StepCache(interval=2, guidance_interval=3), 20) == ("FFF.F.F.F.F.F.F.F.FF", "ccckkckkckkckkckkccc")
    assert words(StepCache(guidance_start=0.25, guidance_end=0.75), 8) == ("FFFFFFFF", "--cccc--")
    assert words(StepCache(first=1), 3) == ("FFF", "ccc")
    assert [BOTH.held(number, STEPS) for number in range(STEPS)] == [0, 1, 1, 1, 1, 1, 1, 7, 8]
    assert [StepCache(interval=2).held(number, 20) for number in (2, 3, 4, 5)] == [2, 2, 4, 4]


def test_settings_by_word():
    assert StepCache.parse("balanced") == STEP_CACHES["balanced"]
    assert StepCache.parse("fast, layers=1,first=0.5") == replace(STEP_CACHES["fast"], layers=1, first=0.5)
    assert StepCache.parse("interval=3") == StepCache(interval=3)
    for text in ("quick", "interval=x", "interval", "balanced,no=1", ""):
        with pytest.raises(ValueError, match="expected careful, balanced, fast or settings such as interval=3,"):
            StepCache.parse(text)
    assert not any(preset.is_idle for preset in STEP_CACHES.values()) and StepCache(layers=1).is_idle


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"interval": 0}, "`interval` of the step cache is 0, expected a whole number of 1 to 1000"),
        ({"layers": 1.5}, "`layers` of the step cache is 1.5"),
        ({"guidance_interval": True}, "`guidance_interval` of the step cache is True"),
        ({"first": 1.1}, "`first` of the step cache is 1.1, expected 0 to 1"),
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "is 0.5, expected less than `guidance_end` 0.5"),
        ({"order": 2}, "`order` of the step cache is 2, expected 0 or 1"),
        ({"memory": -1.0}, "`memory` of the step cache is -1.0, expected GiB of 0 or more"),
        ({"memory": math.inf}, "`memory` of the step cache is inf"),
        ({"memory": "4"}, "`memory` of the step cache is '4'"),
        ({"memory": 10**400}, "`memory` of the step cache is 1000"),
        ({"order": True}, "`order` of the step cache is True"),
        ({"order": 1.0}, "`order` of the step cache is 1.0"),
        ({"first": None}, "`first` of the step cache is None"),
        ({"last": math.nan}, "`last` of the step cache is nan"),
        ({"guidance_start": torch.tensor([0.0, 1.0])}, "`guidance_start` of the step cache is tensor"),
    ],
)
def test_values_out_of_range_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        StepCache(**changes)


def test_other_kinds_and_layers_are_refused_before_any_work(pipeline):
    with pytest.raises(ValueError, match="`step_cache` is 3, expected a StepCache or the name of a preset"):
        clip(pipeline, step_cache=3)
    with pytest.raises(ValueError, match="`layers` is 3, expected 1 to 2, the layers of the model's last up block"):
        clip(pipeline, step_cache=StepCache(interval=2, layers=3))


def test_a_straight_line_goes_on_from_the_last_two():
    kept, (a, b, c) = Kept(1, math.inf), torch.randn(3, 4, 2)
    kept.put("x", 3, a)
    assert kept.get("x", 3, 4) is a and kept.get("x", 6, 4) is a and kept.get("x", 7, 4) is None
    kept.put("x", 5, b)
    torch.testing.assert_close(kept.get("x", 8, 4), b + (b - a) * 3 / 2)
    kept.put("x", 6, a)
    kept.put("x", 6, c)  # the same step once more
    torch.testing.assert_close(kept.get("x", 8, 4), c + (c - b) * 2)
    assert kept.get("y", 8, 4) is None and kept.get("x", 5, 4) is None
    kept.put("x", 8, torch.zeros(4, 3))
    assert kept.get("x", 9, 4).shape == (4, 3)  # another size is another line
    last = Kept(0, math.inf)
    last.put("x", 3, a)
    last.put("x", 5, b)
    assert last.get("x", 7, 4) is b and last.bytes == 32


def test_what_is_kept_is_bounded():
    kept, row = Kept(1, 100), torch.zeros(10)
    assert kept.put("a", 0, row) and kept.put("a", 1, row) and kept.bytes == 80
    assert not kept.put("b", 1, row) and len(kept) == 1
    assert kept.put("a", 2, row) and kept.bytes == 80 and kept.most_bytes == 80
    kept.forget(3)
    assert (len(kept), kept.bytes) == (0, 0)
    assert not kept.put("a", 3, torch.zeros(26)) and kept.bytes == 0
    assert kept.get_rows(["a"], 3, 2) is None
    kept.put("c", 3, row)
    kept.put("d", 3, row + 1)
    assert kept.get_rows(["d", "c"], 4, 2).tolist() == [1.0] * 10 + [0.0] * 10
    assert kept.get_rows(["c", "e"], 4, 2) is None


@pytest.mark.parametrize("sampler, guidance", [("ddim", 1.0), ("dpmpp_2m", 3.0)])
def test_intervals_of_one_change_no_bit(pipeline, monkeypatch, sampler, guidance):
    given = {"sampler": sampler, "guidance": guidance, "steps": 4}
    plain = latents(pipeline, monkeypatch, **given)
    assert torch.equal(latents(pipeline, monkeypatch, **given, step_cache=StepCache()), plain)
    # Whole steps that keep what they compute give the same too.
    kept = StepCache(interval=4, guidance_interval=4, first=1.0)
    assert torch.equal(latents(pipeline, monkeypatch, **given, step_cache=kept), plain)


class Loop:
    """Guided DDIM as a loop: each half alone, the deep part's result put into the plain network by a hook."""

    def __init__(self, pipeline, order, layers=2, frames=4, seed=0):
        self.pipe, self.order, self.frames, self.seed = pipeline, order, frames, seed
        block = pipeline.unet.up_blocks[-1]
        self.resnet = block.resnets[len(block.resnets) - layers]
        self.channels = 16 if layers == 2 else 8
        self.text = pipeline._encode(["", "a red star"])[0]

    def call(self, x, t, half, deep=None):
        """The network's result and its deep part's, with another in the place of that."""
        seen = []

        def look(module, args):
            seen.append(args[0][:, : self.channels].clone())
            if deep is not None:
                return (torch.cat([deep, args[0][:, self.channels :]], 1), *args[1:])

        handle = self.resnet.register_forward_pre_hook(look)
        try:
            text = self.text[half : half + 1]
            return self.pipe.unet.forward_frames(x, t.float(), text, num_frames=len(x)), seen[0]
        finally:
            handle.remove()

    def line(self, held, step):
        """Where the last two of (step, tensor) lead."""
        if self.order == 0 or len(held) == 1:
            return held[-1][1]
        (before, a), (now, b) = held[-2:]
        return b + (b - a) * ((step - now) / (now - before))

    @torch.inference_mode()
    def run(self, full, guided, scale=3.0):
        """full: the steps with all layers. guided: a letter for each step: c, k or -."""
        schedule = self.pipe.schedule
        plan = schedule.steps(len(guided), "trailing")
        deep, differences = {0: [], 1: []}, []

        def predict(x, t, step, half):
            if step in full:
                out, found = self.call(x, t, half)
                deep[half].append((step, found))
                return out
            return self.call(x, t, half, self.line(deep[half], step))[0]

        x = frame_noise(seeded_generator(self.seed), self.frames, 4, 3, 4)
        for i, (t, letter) in enumerate(zip(plan.timesteps, guided, strict=True)):
            with_prompt = predict(x, t, i, 1)
            if letter == "c":
                difference = with_prompt - predict(x, t, i, 0)
                differences.append((i, difference))
            elif letter == "k":
                difference = self.line(differences, i)
            else:
                difference = torch.zeros_like(x)
            out = with_prompt + (scale - 1) * difference
            alpha, sigma, to_alpha, to_sigma = (
                float(values[k]) for k in (i, i + 1) for values in (plan.alphas, plan.sigmas)
            )
            x0, noise = schedule.split(x, out, alpha, sigma)
            x = to_alpha * x0 + to_sigma * noise
        return x


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("layers", [0, 1])
def test_a_run_equals_a_loop_written_by_hand(pipeline, monkeypatch, order, layers):
    cache = replace(BOTH, guidance_interval=3, order=order, layers=layers)
    found = latents(pipeline, monkeypatch, step_cache=cache)
    expected = Loop(pipeline, order, layers or 2).run({0, 1, 4, 7, 8}, "cckkckkcc")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert pipeline.skipped.to_json() == {
        "full": 5, "shallow": 4, "halves_kept": 4, "halves_off": 0, "not_held": 0,
        "most_bytes": pipeline.skipped.most_bytes,
    }  # fmt: skip
    # Two halves of the deep part, one difference; with order 1 twice.
    deep = 4 * (16 if layers == 0 else 8) * 12 * 4
    assert pipeline.skipped.most_bytes == (2 * deep + 4 * 4 * 12 * 4) * (1 + order)


def test_guidance_in_a_part_of_the_steps_equals_the_loop(pipeline, monkeypatch):
    cache = StepCache(guidance_start=0.2, guidance_end=0.7)
    found = latents(pipeline, monkeypatch, step_cache=cache)
    expected = Loop(pipeline, 0).run(set(range(STEPS)), "--cccc---")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (pipeline.skipped.full, pipeline.skipped.halves_off) == (9, 5)
    assert "the unconditional half was left out of 5 (5 without guidance)" in str(pipeline.skipped)


def test_a_half_that_was_left_out_is_not_used_beyond_its_interval(pipeline, monkeypatch):
    """Full steps of the prompt alone renew no unconditional half: the next step with both is full."""
    cache = StepCache(interval=3, guidance_interval=2, first=0.0, last=0.0, order=0)
    latents(pipeline, monkeypatch, step_cache=cache)
    # Steps 0 to 8: full are 0, 3, 6 by plan; both halves run in 0, 2, 4, 6, 8. In 4 the other half is of step 0.
    assert (pipeline.skipped.full, pipeline.skipped.shallow) == (4, 5)


@pytest.mark.parametrize("at_once", [1, 2])
def test_windows_keep_each_their_own(pipeline, monkeypatch, at_once):
    """Against each window with a cache of its own, and another for each of its halves."""
    windows = ContextWindows(4, 1, schedule="standard_static")
    cache = replace(BOTH, guidance_interval=3)
    found = latents(pipeline, monkeypatch, frames=10, windows=windows, windows_at_once=at_once, step_cache=cache)
    plan = windows.plan(10, 0)
    assert len(plan) == 3
    loops = [Loop(pipeline, 1, frames=4) for _ in plan]
    schedule, steps = pipeline.schedule, pipeline.schedule.steps(STEPS, "trailing")
    held = [{"deep": {0: [], 1: []}, "difference": []} for _ in plan]
    full = {0, 1, 4, 7, 8}
    x = frame_noise(seeded_generator(0), 10, 4, 3, 4)
    with torch.inference_mode():
        for i, t in enumerate(steps.timesteps):
            total = torch.zeros_like(x)
            for (window, weights), loop, mine in zip(plan, loops, held, strict=True):
                rows, out = x[window], {}
                for half in (1, 0) if i in full else (1,):
                    deep = None if i in full else loop.line(mine["deep"][half], i)
                    out[half], seen = loop.call(rows, t, half, deep)
                    if i in full:
                        mine["deep"][half].append((i, seen))
                if i in full:
                    mine["difference"].append((i, out[1] - out[0]))
                guided = out[1] + 2.0 * loop.line(mine["difference"], i)
                total.index_add_(0, torch.tensor(window), guided * torch.tensor(weights).view(-1, 1, 1, 1))
            levels = [float(values[k]) for k in (i, i + 1) for values in (steps.alphas, steps.sigmas)]
            x0, noise = schedule.split(x, total, *levels[:2])
            x = levels[2] * x0 + levels[3] * noise
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_windows_that_move_stay_until_all_is_renewed(pipeline, monkeypatch):
    windows = ContextWindows(4, 1, schedule="standard_uniform")
    asked, plan = [], ContextWindows.plan

    def watched(self, frames, step):
        asked.append(step)
        return plan(self, frames, step)

    monkeypatch.setattr(ContextWindows, "plan", watched)
    latents(pipeline, monkeypatch, frames=10, windows=windows, step_cache=replace(BOTH, guidance_interval=3))
    assert asked == [0, 1, 1, 1, 4, 4, 4, 7, 8]
    report = pipeline.skipped
    assert report.shallow and report.full / (report.full + report.shallow) == pytest.approx(5 / 9, abs=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": ForwardOptions(freeu=FreeU(0.9, 0.2, 1.2, 1.4))},
        {"views": ContextWindows(4, 1), "frames": 7},
        {"frames_at_once": 2},
        {"prompt": PromptSchedule.parse("p", '"0": "a red star", "3": "a star"')},
        {"guidance": Curve.parse("g", "0:3, -1:5")},
        {"options": ForwardOptions(motion_amounts=[MotionAmount(scale=torch.tensor([[1.0] * 4, [1.3] * 4]))])},
    ],
    ids=["freeu", "views", "frames_at_once", "prompts", "curve", "amounts"],
)
def test_what_else_acts_goes_with_it(pipeline, monkeypatch, changes):
    """Near the plain run, and not at it; with everything whole, at it."""
    plain = latents(pipeline, monkeypatch, **changes)
    cached = latents(pipeline, monkeypatch, step_cache=replace(BOTH, order=0), **changes)
    assert 0 < (cached - plain).norm() / plain.norm() < 0.5 and pipeline.skipped.shallow
    whole = latents(pipeline, monkeypatch, step_cache=StepCache(interval=9, guidance_interval=9, first=1.0), **changes)
    assert torch.equal(whole, plain)
    if "frames_at_once" in changes:
        at_once = latents(pipeline, monkeypatch, step_cache=replace(BOTH, order=0))
        torch.testing.assert_close(cached, at_once, rtol=1e-4, atol=1e-4)


def test_no_room_is_no_cache(pipeline, monkeypatch):
    plain = latents(pipeline, monkeypatch)
    assert torch.equal(latents(pipeline, monkeypatch, step_cache=replace(BOTH, memory=0.0)), plain)
    assert pipeline.skipped.shallow == 0 and pipeline.skipped.not_held and "there was no room" in str(pipeline.skipped)


def test_a_picture_laid_in_and_a_new_run_begin_anew(pipeline, monkeypatch):
    cache = replace(BOTH, guidance_interval=1)
    picture = ImageInjection(torch.rand(1, 24, 32, 3), at=0.55)
    monkeypatch.setattr(pipeline, "_latents", lambda pictures: torch.zeros(len(pictures), 4, 3, 4))
    latents(pipeline, monkeypatch, injection=picture, step_cache=cache)
    injected = pipeline.skipped.full
    latents(pipeline, monkeypatch, step_cache=cache)
    once = pipeline.skipped
    assert injected == once.full + 1  # the step behind the picture
    latents(pipeline, monkeypatch, free_init=FreeInit(2), step_cache=cache)
    assert (pipeline.skipped.full, pipeline.skipped.shallow) == (2 * once.full, 2 * once.shallow)
    latents(pipeline, monkeypatch)
    assert pipeline.skipped is None


def test_options_of_one_of_the_prompts():
    strength = torch.arange(12.0).view(2, 6)
    options = ForwardOptions(
        motion_loras=[MotionLora("a", {}, strength), MotionLora("b", {}, strength[0]), MotionLora("c", {}, 0.5)],
        motion_amounts=[MotionAmount(scale=strength, effect=strength[1]), MotionAmount(effect=2.0)],
    )
    both = options_of(options, [[4, 5, 0], [1, 2, 3]], 6, 2)
    last = options_of(of_prompt(options, 1, 2), [[4, 5, 0], [1, 2, 3]], 6, 1)
    for mine, of_both in zip(last.motion_loras[:2], both.motion_loras[:2], strict=True):
        assert torch.equal(mine.strength, of_both.strength[2:])
    assert last.motion_loras[2].strength == 0.5 and last.motion_amounts[1].effect == 2.0
    for name in ("scale", "effect"):
        assert torch.equal(getattr(last.motion_amounts[0], name), getattr(both.motion_amounts[0], name)[2:])
    assert of_prompt(ForwardOptions(), 1, 2).motion_loras == ()


def test_numbers_of_numpy_are_numbers():
    given = StepCache(interval=np.int64(2), first=np.float32(0.5), memory=np.float64(1))
    assert given == StepCache(interval=2, first=0.5, memory=1.0) and type(given.interval) is int
    with pytest.raises(ValueError, match="each once"):
        StepCache.parse("interval=3,layers=1,interval=5")


def test_a_list_of_prompts_reports_all_its_clips_and_a_refused_call_none(pipeline):
    cache = StepCache(interval=2)
    clip(pipeline, step_cache=cache)
    once = pipeline.skipped
    clip(pipeline, prompt=["a", "b", "c"], step_cache=cache)
    assert pipeline.skipped.full == 3 * once.full and pipeline.skipped.shallow == 3 * once.shallow > 0
    assert pipeline.skipped.most_bytes == once.most_bytes
    with pytest.raises(ValueError, match="steps"):
        clip(pipeline, steps=0, step_cache=cache)
    assert pipeline.skipped is None


def test_a_cache_without_memory_changes_nothing_in_windows_either(pipeline):
    given = {"frames": 10, "windows": ContextWindows(4, 1, 1, "standard_uniform")}
    cache = StepCache(interval=3, guidance_interval=3, memory=0.0)
    assert np.array_equal(clip(pipeline, step_cache=cache, **given), clip(pipeline, **given))
    assert not np.array_equal(clip(pipeline, step_cache=replace(cache, memory=1.0), **given), clip(pipeline, **given))
