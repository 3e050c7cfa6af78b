"""Clips drawn in windows: the weighted mean of runs of each window alone, with what belongs to its frames."""

from __future__ import annotations

import comfy.sample
import pytest
import torch
from pack.nodes.context_windows import ContextWindowsNode, ShowContextWindows
from pack.nodes.noise import FreeInit as FreeInitNode
from pack.nodes.noise import Noise, UseNoise
from pack.unet_motion.sampling import ContextWindows, free_noise
from pack.unet_motion.sampling.window_picture import draw_windows
from sampled import noise, sample, text
from small import relative

FRAMES, LENGTH, OVERLAP = 11, 6, 2
TOLERANCE = 2e-6

DEFAULTS = {
    "length": LENGTH, "overlap": OVERLAP, "stride": 1, "schedule": "standard_static", "closed_loop": False,
    "loop_frames": 0, "fuse": "pyramid", "free_noise": False, "use_on_equal_length": False, "windows_at_once": 1,
    "start_percent": 0.0, "end_percent": 1.0,
}  # fmt: skip


def windowed(model, **changes):
    return ContextWindowsNode.execute(model, **{**DEFAULTS, **changes})[0]


def plan(frames=FRAMES, step=0, **changes):
    given = {**DEFAULTS, **changes}
    names = ("length", "overlap", "stride", "schedule", "closed_loop", "fuse", "use_on_equal_length")
    return ContextWindows(**{name: given[name] for name in names}, loop_frames=given["loop_frames"] or None).plan(
        frames, step
    )


def mean_of_windows(run, frames=FRAMES, **changes):
    """The weighted mean, in float64, of runs of every window alone; one Euler step to the end is linear in them."""
    total = None
    for window, weights in plan(frames, **changes):
        own = run(window).double() * torch.tensor(weights, dtype=torch.float64).view(-1, 1, 1, 1)
        total = torch.zeros(frames, *own.shape[1:], dtype=torch.float64) if total is None else total
        total[window] += own
    return total.float()


@pytest.fixture(scope="module")
def start():
    return noise(FRAMES)


@pytest.fixture(scope="module")
def plain(moving, start):
    return sample(windowed(moving), start=start)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "looped_uniform", "closed_loop": True, "fuse": "relative"},
        {"schedule": "looped_uniform", "closed_loop": True, "loop_frames": 3, "fuse": "gaussian"},
        {"schedule": "standard_uniform", "stride": 2, "fuse": "overlap-linear"},
        {"schedule": "batched", "fuse": "flat"},
    ],
)
def test_a_clip_is_the_weighted_mean_of_its_windows_alone(moving, start, changes):
    out = sample(windowed(moving, **changes), start=start)
    assert relative(out, mean_of_windows(lambda window: sample(moving, start=start[window]), **changes)) < TOLERANCE
    assert relative(out, sample(moving, start=start)) > 1e-3


def test_windows_move_with_the_steps(moving, start):
    seen, moves = [], {"schedule": "looped_uniform", "closed_loop": True}
    model = windowed(moving, **moves)
    sample(model, start=start, steps=3, callback=lambda step, x0, x, total: seen.append((x.clone(), x0.clone())))
    sampling = moving.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 3)
    for step in (1, 2):
        x, x0 = seen[step]

        def alone(window, x=x, sigma=sigmas[step]):
            latents = comfy.sample.sample_custom(
                moving, x[window] / sigma, 3.0, comfy.samplers.ksampler("euler"), torch.stack([sigma, sigmas[-1]]),
                text(1), text(2), torch.zeros_like(x[window]), disable_pbar=True, seed=3,
            )  # fmt: skip
            return moving.model.process_latent_in(latents)

        found = [mean_of_windows(alone, step=other, **moves) for other in (step, 0)]
        assert relative(x0, found[0]) < 1e-6 < 1e-5 < relative(x0, found[1])


@pytest.mark.parametrize("at_once", [2, 64])
def test_windows_in_a_batch_give_the_same_in_fewer_calls(moving, start, at_once):
    calls = []

    def count(apply_model, given):
        calls.append(len(given["input"]))
        return apply_model(given["input"], given["timestep"], **given["c"])

    changes, out, found = {"schedule": "looped_uniform", "closed_loop": True}, [], []
    for count_of in (1, at_once):
        model = windowed(moving, **changes, windows_at_once=count_of)
        model.set_model_unet_function_wrapper(count)
        out.append(sample(model, start=start))
        found.append(calls.copy())
        calls.clear()
    windows = len(plan(**changes))
    assert found == [[2 * LENGTH] * windows, [2 * LENGTH * n for n in _parts(windows, at_once)]]
    assert relative(out[1], out[0]) < TOLERANCE


def _parts(windows, at_once):
    return [min(at_once, windows - done) for done in range(0, windows, at_once)]


def test_later_settings_take_over_in_their_part_of_the_run(moving, start):
    def run(model):
        seen = []
        sample(model, start=start, steps=4, callback=lambda step, x0, x, total: seen.append(x0.clone()))
        return seen

    early, late = {"fuse": "flat"}, {"schedule": "looped_uniform", "closed_loop": True}
    both = run(windowed(windowed(moving, **early), **late, start_percent=0.5))
    only_early, only_late = run(windowed(moving, **early)), run(windowed(windowed(moving, **early), **late))
    assert torch.equal(both[0], only_early[0]) and torch.equal(both[1], only_early[1])
    assert relative(both[2], only_early[2]) > 1e-4
    assert relative(only_late[0], only_early[0]) > 1e-4


def test_a_short_clip_is_drawn_whole(moving):
    short = noise(LENGTH)
    whole = sample(moving, start=short)
    assert torch.equal(sample(windowed(moving), start=short), whole)
    loop = {"use_on_equal_length": True, "schedule": "looped_uniform", "closed_loop": True}
    found = sample(windowed(moving, **loop), start=short)
    assert relative(found, mean_of_windows(lambda w: sample(moving, start=short[w]), LENGTH, **loop)) < TOLERANCE
    assert relative(found, whole) > 1e-3


def test_free_noise_shuffles_the_noise_that_comfyui_draws(moving, start):
    found = sample(windowed(moving, free_noise=True), start=start)
    by_hand = sample(windowed(moving), start=free_noise(start, LENGTH, OVERLAP, 3))
    assert torch.equal(found, by_hand)
    assert not torch.equal(found, sample(windowed(moving), start=start))
    apart = sample(windowed(moving, schedule="batched", free_noise=True), start=start)
    assert torch.equal(apart, sample(windowed(moving, schedule="batched"), start=free_noise(start, LENGTH, 0, 3)))


def test_the_picture_shows_the_windows_that_the_sampler_draws(moving):
    model = windowed(windowed(moving), schedule="looped_uniform", closed_loop=True, start_percent=0.5)
    steps, latent = 4, {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    found = ShowContextWindows.execute(model, latent, steps, "normal")[0]
    loop = {"schedule": "looped_uniform", "closed_loop": True}
    plans = [plan(step=step, **(loop if step >= 2 else {})) for step in range(steps)]
    expected = torch.from_numpy(draw_windows(plans, FRAMES) / 255).float()
    assert found.dtype == torch.float32 and torch.equal(found, expected[None])
    whole = ShowContextWindows.execute(windowed(moving), {"samples": torch.zeros(3, 4, 8, 8)}, 1, "normal")[0]
    assert torch.equal(whole[0], torch.from_numpy(draw_windows([[([0, 1, 2], [1, 1, 1])]], 3) / 255).float())
    with pytest.raises(ValueError, match="has no windows of this pack"):
        ShowContextWindows.execute(moving, latent, steps, "normal")


def test_free_noise_of_the_windows_is_that_of_the_noise_node_in_each_run_of_free_init(moving, start):
    def run(model):
        return sample(FreeInitNode.execute(model, 2, "butterworth", 0.25, 0.25, 4, False)[0], start=start)

    given = Noise.execute(0, "free_noise", LENGTH, OVERLAP, 1.0)[0]
    by_node = run(UseNoise.execute(windowed(moving), given, True)[0])
    assert relative(run(windowed(moving, free_noise=True)), by_node) < TOLERANCE
    assert relative(run(windowed(moving)), by_node) > 1e-2
