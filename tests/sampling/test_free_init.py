"""FreeInit against diffusers' filters and mixin, against loops over frequencies, and in the pipeline."""

import math

import numpy as np
import pytest
import torch

from tests.sampling.test_pipeline import clip, pipeline, unet  # noqa: F401
from unet_motion import ContextWindows, FreeInit
from unet_motion.sampling import FILTERS, NoiseSchedule, frame_noise, get_sampler, seeded_generator

SIZES = [(16, 8, 12), (4, 6, 2), (1, 4, 4), (5, 7, 9), (3, 1, 1)]


def full_gains(free_init, frames, height, width):
    """All frequencies, in the order of `fftn`, from those of `rfftn`: gains of k and of -k are equal."""
    half = free_init.gains(frames, height, width)
    full = torch.empty(frames, height, width)
    for w in range(width):
        if w < half.shape[2]:
            full[:, :, w] = half[:, :, w]
        else:
            t, h = (-torch.arange(frames)) % frames, (-torch.arange(height)) % height
            full[:, :, w] = half[t][:, h][:, :, width - w]
    return full


def gain(free_init, t, h, w):
    """The definition, for one frequency whose parts are shares of the highest one."""
    parts = [abs(t) / free_init.temporal_stop, abs(h) / free_init.spatial_stop, abs(w) / free_init.spatial_stop]
    distance = math.sqrt(sum(part**2 for part in parts))
    return {
        "gaussian": math.exp(-(distance**2) / 2),
        "butterworth": 1 / (1 + distance ** (2 * free_init.order)),
        "ideal": float(distance <= 1 + 1e-9),
        "box": float(max(parts) <= 1 + 1e-9),
    }[free_init.filter]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILTERS)
def test_gains_are_the_definitions(name, size):
    free_init = FreeInit(3, name, spatial_stop=0.5, temporal_stop=0.4, order=3)
    found = full_gains(free_init, *size)
    axes = [[(i if 2 * i <= n else i - n) * 2 / n for i in range(n)] for n in size]
    expected = torch.tensor([[[gain(free_init, t, h, w) for w in axes[2]] for h in axes[1]] for t in axes[0]])
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-7)
    assert found[0, 0, 0] == 1


@pytest.mark.parametrize("name", ["gaussian", "butterworth", "ideal"])
@pytest.mark.parametrize("stops", [(0.25, 0.25), (0.5, 0.3)])
def test_filters_are_diffusers_at_even_sizes(name, stops):
    mixin = pytest.importorskip("diffusers.pipelines.free_init_utils").FreeInitMixin()
    spatial, temporal = stops
    theirs = mixin._get_free_init_freq_filter((1, 1, 16, 6, 8), "cpu", name, 4, spatial, temporal)[0, 0]
    theirs = torch.fft.ifftshift(theirs)
    if name == "ideal":  # diffusers cuts at D**2 = 2 stop, where the definition says D = stop
        spatial, temporal = math.sqrt(2 * spatial), math.sqrt(2 * spatial) * temporal / spatial
        if temporal > 1:
            pytest.skip("no stop frequency of ours")
    found = full_gains(FreeInit(3, name, spatial, temporal, 4), 16, 6, 8)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)


def test_diffusers_filters_of_odd_sizes_are_off_centre():
    """No frequency of theirs is the mean's there, so that part of the result's mean is lost; ours keeps it whole."""
    mixin = pytest.importorskip("diffusers.pipelines.free_init_utils").FreeInitMixin()
    theirs = torch.fft.ifftshift(mixin._get_free_init_freq_filter((1, 1, 5, 3, 3), "cpu", "gaussian", 4, 0.25, 0.25))
    assert theirs[0, 0, 0, 0, 0] < 0.2
    low, high = torch.randn(5, 2, 3, 3) + 4, torch.randn(5, 2, 3, 3)
    found = FreeInit(2, "gaussian").mixed(low, high)
    torch.testing.assert_close(found.mean((0, 2, 3)), low.mean((0, 2, 3)))


@pytest.mark.parametrize("name", ["gaussian", "butterworth"])
@pytest.mark.parametrize("fast", [False, True])
def test_a_run_begins_where_diffusers_begins_it(name, fast):
    free_init_utils = pytest.importorskip("diffusers.pipelines.free_init_utils")
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear"
    )
    mixin = free_init_utils.FreeInitMixin()
    mixin.scheduler = scheduler
    mixin.enable_free_init(3, fast, name, 4, 0.25, 0.5)
    ours = FreeInit(3, name, 0.25, 0.5, fast=fast)
    first, result = torch.randn(2, 1, 4, 16, 6, 8)  # (B, C, F, h, w), as diffusers has it
    arguments = ("cpu", torch.float32, seeded_generator(4))
    mixin._apply_free_init(first, 0, 13, *arguments)
    for iteration in (1, 2):
        theirs, timesteps = mixin._apply_free_init(result, iteration, 13, "cpu", torch.float32, seeded_generator(4))
        fresh = torch.randn(1, 4, 16, 6, 8, generator=seeded_generator(4))
        last = NoiseSchedule.named().alphas_cumprod[-1]
        frames = [part[0].movedim(1, 0) for part in (result, first, fresh)]
        found = ours.renewed(*frames, float(last.sqrt()), float((1 - last).sqrt()))
        torch.testing.assert_close(found, theirs[0].movedim(1, 0), rtol=1e-5, atol=1e-5)
        assert ours.steps(iteration, 13) == len(timesteps)


def test_low_and_high_frequencies_are_told_apart():
    turns = 2 * math.pi * torch.arange(16) / 16
    slow, quick = (torch.cos(n * turns).view(-1, 1, 1, 1).expand(16, 3, 4, 4) for n in (1, 7))
    for name in FILTERS:
        free_init = FreeInit(2, name, order=8)
        keep = gain(free_init, 1 / 8, 0, 0), gain(free_init, 7 / 8, 0, 0)
        assert keep[0] > 0.8 and keep[1] < 0.01
        found = free_init.mixed(slow + quick, torch.zeros(16, 3, 4, 4))
        torch.testing.assert_close(found, keep[0] * slow + keep[1] * quick, rtol=1e-4, atol=1e-5)
        same = torch.randn(16, 3, 4, 4)
        torch.testing.assert_close(free_init.mixed(same, same), same)


@pytest.mark.parametrize("size", [(16, 4, 8, 8), (7, 4, 5, 3)])
def test_a_run_from_a_given_clip_begins_at_its_level_of_noise(size):
    """With strength below 1: alpha * given + sigma * noise, with the low frequencies of the noised result."""
    alpha, sigma = 0.8, 0.6
    given, result, first, fresh = torch.randn(4, *size, dtype=torch.float64)
    free_init = FreeInit(3, "box", 0.5, 0.5)
    state = alpha * given + sigma * free_init.renewed(result, first, fresh, alpha, sigma, given)
    low = free_init.mixed(alpha * result + sigma * first, torch.zeros_like(first))
    high = (alpha * given + sigma * fresh) - free_init.mixed(alpha * given + sigma * fresh, torch.zeros_like(first))
    torch.testing.assert_close(state, low + high)
    # A run that gave back what it was given changes nothing but the high frequencies of the noise.
    unchanged = free_init.renewed(given, first, fresh, alpha, sigma, given)
    torch.testing.assert_close(unchanged, free_init.mixed(first, fresh))
    with pytest.raises(ValueError, match="a run begins with 0.0 of noise, expected more than 0"):
        free_init.renewed(result, first, fresh, 1.0, 0.0, given)


def test_steps_of_fast_sampling_grow_to_all():
    assert [FreeInit(4, fast=True).steps(i, 10) for i in range(4)] == [2, 5, 7, 10]
    assert [FreeInit(3, fast=True).steps(i, 1) for i in range(3)] == [1, 1, 1]
    assert [FreeInit(3).steps(i, 10) for i in range(3)] == [10, 10, 10]


# in the pipeline


class Latents:
    """Keeps the latents that a pipeline decodes."""

    def __init__(self, pipe):
        self.pipe, self.kept = pipe, None
        pipe.decode = self.decode

    def decode(self, latents):
        self.kept = latents.clone()
        return np.zeros((len(latents), 8, 8, 3), np.uint8)


@pytest.mark.parametrize("fast", [False, True])
def test_the_pipeline_samples_again_from_the_noise_of_the_paper(pipeline, fast):  # noqa: F811
    """Against runs written out: usual sampling, noising, filters by loops, usual sampling again."""
    from unet_motion.sampling.windowed import windowed

    seen, schedule, free_init = Latents(pipeline), NoiseSchedule.named(), FreeInit(3, order=2, fast=fast)
    clip(pipeline, frames=5, steps=4, seed=9, guidance=2.0, free_init=free_init)
    predict = pipeline._guided(["", "a red star"], 5, 2.0, None)
    state = first = frame_noise(seeded_generator(9), 5, 4, 3, 4)
    last = schedule.alphas_cumprod[-1]
    gains = full_gains(free_init, 5, 3, 4)[:, None]
    for i in range(3):
        plan = schedule.steps(max(1, 4 * (i + 1) // 3) if fast else 4, "trailing")
        model = windowed(predict, ContextWindows(5, 0), 5, plan.timesteps)
        with torch.inference_mode():
            result = get_sampler("ddim").run(model, state, schedule, plan)
        own = free_init.seed(i + 1, 9)
        fresh = frame_noise(seeded_generator(own), 5, 4, 3, 4)
        noised = last.sqrt() * result + (1 - last).sqrt() * first
        spectrum = gains * torch.fft.fftn(noised, dim=(0, 2, 3)) + (1 - gains) * torch.fft.fftn(fresh, dim=(0, 2, 3))
        state = torch.fft.ifftn(spectrum, dim=(0, 2, 3)).real.float()
    torch.testing.assert_close(seen.kept, result, rtol=1e-3, atol=1e-4)


def test_one_run_changes_nothing_and_more_do(pipeline):  # noqa: F811
    plain = clip(pipeline)
    assert (clip(pipeline, free_init=FreeInit(1)) == plain).all()
    assert (clip(pipeline, free_init=FreeInit(2)) != plain).any()
    # Fresh noise is of the run's kind.
    windows = ContextWindows(4, 1)
    free = [clip(pipeline, windows=windows, noise=kind, free_init=FreeInit(2)) for kind in ("constant", "default")]
    assert (free[0] != free[1]).any()


def test_fresh_noise_differs_from_run_to_run_and_from_a_mix():
    seeds = {FreeInit().seed(i, 5) for i in range(20)}
    assert len(seeds) == 20 and FreeInit().seed(0, 5) == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"iterations": 0}, "`iterations` is 0, expected a whole number of at least 1"),
        ({"iterations": True}, "`iterations` is True"),
        ({"order": 0}, "`order` is 0"),
        ({"filter": "sharp"}, "`filter` is 'sharp', expected one of gaussian, butterworth, ideal, box"),
        ({"spatial_stop": 0}, "`spatial_stop` is 0, expected more than 0 and at most 1"),
        ({"temporal_stop": 1.5}, "`temporal_stop` is 1.5"),
        ({"spatial_stop": math.nan}, "`spatial_stop` is nan"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        FreeInit(**settings)
