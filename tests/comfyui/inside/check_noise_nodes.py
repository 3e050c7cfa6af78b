"""The noise that samplers start from, and FreeInit around them, on values."""

from __future__ import annotations

import math

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from pack.nodes.noise import FreeInit, Noise, UseNoise
from pack.nodes.sampling import MotionSampler
from pack.unet_motion.sampling import FreeInit as Settings
from pack.unet_motion.sampling import free_noise, seed_apart
from sampled import SIZE, execute, models, text

from nodes import KSampler, KSamplerAdvanced

FRAMES = 9


@pytest.fixture(scope="module")
def plain():
    return models(shallow=True)[0]


def made(seed, kind="free_noise", length=4, overlap=1, weight=0.5, mix_with=None):
    return execute(Noise, seed, kind, length, overlap, weight, mix_with)


def latents(frames=FRAMES, **more):
    return {"samples": torch.zeros(frames, 4, *SIZE), **more}


def drawn(seed, frames=FRAMES):
    return torch.randn(frames, 4, *SIZE, generator=torch.Generator().manual_seed(seed))


def run(model, seed=8, steps=1, denoise=1.0, latent=None, sampler="euler", scheduler="normal"):
    latent = latents(2) if latent is None else latent
    found = KSampler().sample(model, seed, steps, 1.0, sampler, scheduler, text(1), text(2), latent, denoise)[0]
    return found["samples"]


class Spy:
    """Takes the place of a sampler's function and keeps the first states; gives back a fixed clip."""

    def __init__(self, results, denoise_first=None):
        self.results, self.states, self.sigmas, self.published, self.steps = list(results), [], [], [], []

    def __call__(self, model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        self.states.append(x.clone())
        self.sigmas.append(sigmas.clone())
        self.published.append(extra_args["model_options"]["transformer_options"]["sample_sigmas"].clone())
        for i in range(len(sigmas) - 1):
            callback({"i": i, "denoised": x, "x": x, "sigma": sigmas[i], "sigma_hat": sigmas[i]})
        return self.results[len(self.states) - 1]


def spied(model, spy, latent, denoise=1.0, steps=6, seed=8, noise=None):
    """A run of SamplerCustomAdvanced with a spy as the sampler; returns the sigmas of the whole run."""
    sigmas = execute(custom.BasicScheduler, model, "normal", steps, denoise)
    guider = execute(custom.CFGGuider, model, text(1), text(2), 2.0)
    sampler = comfy.samplers.KSAMPLER(spy)
    execute(custom.SamplerCustomAdvanced, noise or execute(custom.RandomNoise, seed), guider, sampler, sigmas, latent)
    return sigmas


# noise


def test_noise_of_each_kind():
    plain = drawn(3)
    expected = {
        "default": plain,
        "free_noise": free_noise(plain, 4, 1, 3),
        "repeated": torch.cat([plain[:4], plain[:4], plain[:1]]),
        "constant": plain[:1].expand(FRAMES, -1, -1, -1),
        "seed_per_frame": torch.cat([drawn(3 + i, 1) for i in range(FRAMES)]),
        "empty": torch.zeros_like(plain),
    }
    for kind, noise in expected.items():
        assert torch.equal(made(3, kind).generate_noise(latents()), noise), kind
        assert made(3, kind).seed == 3
    core = execute(custom.RandomNoise, 3).generate_noise(latents())
    assert torch.equal(made(3, "default").generate_noise(latents()), core)


def test_a_batch_index_says_whose_noise_a_frame_has():
    latent = latents(2, batch_index=[4, 1])
    expected = execute(custom.RandomNoise, 3).generate_noise(latent)
    assert torch.equal(made(3, "default").generate_noise(latent), expected)


def test_mixes_are_sums_with_the_strength_of_noise():
    inner = made(3, "constant")
    both = made(3, "default", weight=0.8, mix_with=inner)
    own = drawn(seed_apart(3, 1))
    expected = (0.8 * own + 0.2 * drawn(3)[:1]) / math.hypot(0.8, 0.2)
    torch.testing.assert_close(both.generate_noise(latents()), expected)
    three = made(5, "default", weight=0.25, mix_with=both)
    expected = (0.25 * drawn(seed_apart(5, 2)) + 0.75 * expected) / math.hypot(0.25, 0.75)
    torch.testing.assert_close(three.generate_noise(latents()), expected)
    core = made(3, "default", weight=0.5, mix_with=execute(custom.RandomNoise, 3))
    expected = (drawn(seed_apart(3, 1)) + drawn(3)) / math.sqrt(2)
    torch.testing.assert_close(core.generate_noise(latents()), expected)


def test_samplers_start_from_the_noise_on_the_model(moving):
    windowed = execute(UseNoise, moving, made(99, "constant"), True)
    spy = Spy([latents()["samples"]] * 2)
    sigmas = spied(windowed, spy, latents(), seed=8)
    scale = math.sqrt(1 + float(sigmas[0]) ** 2)
    torch.testing.assert_close(spy.states[0], drawn(8)[:1].expand(FRAMES, -1, -1, -1) * scale)
    # From its own seed.
    own = Spy([latents()["samples"]] * 2)
    spied(execute(UseNoise, moving, made(99, "constant"), False), own, latents(), seed=8)
    torch.testing.assert_close(own.states[0], drawn(99)[:1].expand(FRAMES, -1, -1, -1) * scale)
    # The last node counts, and the MODEL that was given stays as it was.
    again = Spy([latents()["samples"]] * 2)
    spied(execute(UseNoise, windowed, made(1, "repeated"), True), again, latents())
    torch.testing.assert_close(again.states[0][4:8], again.states[0][:4])
    before = Spy([latents()["samples"]])
    spied(moving, before, latents(), seed=8)
    torch.testing.assert_close(before.states[0], drawn(8) * scale)


def test_mixes_and_core_noise_follow_the_samplers_seed(moving):
    mixed = made(20, "default", weight=0.5, mix_with=made(22, "constant"))
    spy = Spy([latents()["samples"]])
    sigmas = spied(execute(UseNoise, moving, mixed, True), spy, latents(), seed=8)
    scale = math.sqrt(1 + float(sigmas[0]) ** 2)
    expected = (drawn(seed_apart(8, 1)) + drawn(10)[:1]) / math.sqrt(2)
    torch.testing.assert_close(spy.states[0], expected * scale)
    spy = Spy([latents()["samples"]])
    spied(execute(UseNoise, moving, execute(custom.RandomNoise, 77), True), spy, latents(), seed=8)
    torch.testing.assert_close(spy.states[0], drawn(8) * scale)


def test_the_usual_noise_on_the_model_changes_nothing(moving):
    model = execute(UseNoise, moving, made(0, "default"), True)
    assert torch.equal(run(model), run(moving))


def test_a_run_without_added_noise_stays_without(moving):
    model = execute(UseNoise, moving, made(0, "constant"), True)
    settings = (8, 4, 1.0, "euler", "normal", text(1), text(2), {"samples": drawn(1, 2)}, 3, 10000, "disable")
    found = [KSamplerAdvanced().sample(m, "disable", *settings)[0]["samples"] for m in (model, moving)]
    assert torch.equal(*found)


def test_each_clip_of_a_batch_has_noise_of_its_own(moving):
    noises = []

    def keep(executor, noise, *arguments, **named):
        noises.append(noise.clone())
        return executor(noise, *arguments, **named)

    model = execute(UseNoise, moving, made(0, "constant"), True)
    model.add_wrapper_with_key("outer_sample", "spy", keep)
    arguments = (1, 1.0, "euler", "normal", text(1), text(2), latents(4), 1.0, 2)
    execute(MotionSampler, model, 8, *arguments)
    base = drawn(8, 4)
    assert torch.equal(noises[0], torch.cat([base[:1]] * 2 + [base[2:3]] * 2))


def test_latents_that_are_no_clip_are_refused():
    with pytest.raises(ValueError, match=r"`latent_image` has shape \(1, 4, 9, 8, 8\), expected \(frames, channels"):
        made(0).generate_noise({"samples": torch.zeros(1, 4, 9, 8, 8)})
    with pytest.raises(ValueError, match="`overlap` is 4, expected less than `window_length`, which is 4"):
        made(0, "free_noise", 4, 4)
    assert made(0, "constant", 4, 4).kind == "constant"


def test_a_model_without_motion_is_refused(plain):
    for node, arguments in ((UseNoise, (made(0), True)), (FreeInit, (3, "gaussian", 0.25, 0.25, 4, False))):
        with pytest.raises(ValueError, match="`model` is a UNetModel without motion modules"):
            execute(node, plain, *arguments)


# FreeInit


def free_init(model, iterations=3, name="butterworth", spatial=0.25, temporal=0.25, order=4, fast=False):
    return execute(FreeInit, model, iterations, name, spatial, temporal, order, fast)


def expected_noise(first, result, fresh, sigma, settings, given=None):
    """The next run's noise, written out: in ComfyUI's terms x = clip + sigma * noise."""
    if given is None:  # the highest level, from nothing: the state itself is the noise, of variance 1
        low = (result + sigma * first) / math.sqrt(1 + sigma**2)
    else:
        low = (result + sigma * first - given) / sigma
    gains = settings.gains(len(first), *SIZE)[:, None].double()
    spectra = [torch.fft.rfftn(part.double(), dim=(0, 2, 3)) for part in (low, fresh)]
    mixed = gains * spectra[0] + (1 - gains) * spectra[1]
    return torch.fft.irfftn(mixed, s=(len(first), *SIZE), dim=(0, 2, 3)).float()


@pytest.mark.parametrize("fast", [False, True])
def test_runs_begin_with_the_noise_of_the_paper(moving, fast):
    results = [drawn(50 + i) for i in range(3)]
    spy, settings = Spy(results), Settings(3, order=2, fast=fast)
    sigmas = spied(free_init(moving, 3, order=2, fast=fast), spy, latents(), seed=8)
    sigma, first = float(sigmas[0]), drawn(8)
    scale = math.sqrt(1 + sigma**2)
    torch.testing.assert_close(spy.states[0], first * scale)
    for i in (1, 2):
        fresh = drawn(settings.seed(i, 8))
        expected = expected_noise(first, results[i - 1], fresh, sigma, settings)
        torch.testing.assert_close(spy.states[i], expected * scale, rtol=1e-4, atol=1e-3)
    assert [len(run) - 1 for run in spy.sigmas] == ([2, 4, 6] if fast else [6, 6, 6])
    for run, published in zip(spy.sigmas, spy.published, strict=True):
        assert run[0] == sigmas[0] and run[-1] == 0 and torch.equal(run, published)
        assert set(run.tolist()) <= set(sigmas.tolist())


@pytest.mark.parametrize("denoise", [0.6, 0.25])
def test_a_part_of_the_noise_keeps_its_level_and_its_steps(moving, denoise):
    """Where diffusers shortens the run each time, and begins it without the clip that it was given."""
    given = drawn(60) / 0.18215
    results = [drawn(50 + i) for i in range(3)]
    spy, settings = Spy(results), Settings(3, "gaussian")
    sigmas = spied(free_init(moving, 3, "gaussian"), spy, {"samples": given}, denoise=denoise)
    sigma, first, clip = float(sigmas[0]), drawn(8), given * 0.18215
    torch.testing.assert_close(spy.states[0], clip + sigma * first, rtol=1e-4, atol=1e-4)
    for i in (1, 2):
        fresh = drawn(settings.seed(i, 8))
        noise = expected_noise(first, results[i - 1], fresh, sigma, settings, clip)
        torch.testing.assert_close(spy.states[i], clip + sigma * noise, rtol=1e-4, atol=1e-3)
    assert [len(run) for run in spy.sigmas] == [len(sigmas)] * 3
    # A run that gives back what it was given leaves the low frequencies of the noise as they were.
    same = Spy([clip, clip])
    spied(free_init(moving, 2, "gaussian"), same, {"samples": given}, denoise=denoise)
    noise = (same.states[1] - clip) / sigma
    mixed = settings.mixed(first, drawn(settings.seed(1, 8)))
    torch.testing.assert_close(noise, mixed, rtol=1e-4, atol=1e-3)


def test_fresh_noise_is_of_the_models_kind(moving):
    """With the same noise for all frames no frequency over time gets anything."""
    model = free_init(execute(UseNoise, moving, made(0, "constant"), True), 2)
    spy = Spy([drawn(50)[:1].expand(FRAMES, -1, -1, -1)] * 2)
    spied(model, spy, latents())
    torch.testing.assert_close(spy.states[1], spy.states[1][:1].expand_as(spy.states[1]), rtol=1e-4, atol=1e-4)
    order = execute(UseNoise, free_init(moving, 2), made(0, "constant"), True)
    other = Spy(spy.results)
    spied(order, other, latents())
    torch.testing.assert_close(other.states[1], spy.states[1])


def test_what_later_nodes_do_to_the_noise_is_done_to_the_first_only(moving):
    model = free_init(moving, 3).clone()
    seen = []

    def reverse(executor, guider, sigmas, extra_args, callback, noise, *rest):
        seen.append(noise)
        return executor(guider, sigmas, extra_args, callback, noise.flip(0), *rest)

    model.add_wrapper_with_key("sampler_sample", "another", reverse)
    spied(model, Spy([drawn(50 + i) for i in range(3)]), latents())
    assert len(seen) == 1


def test_the_last_node_counts_and_runs_leave_nothing_behind(moving):
    model = free_init(free_init(moving, 3), 2)
    for _ in range(2):
        spy = Spy([drawn(50)] * 2)
        spied(model, spy, latents())
        assert len(spy.states) == 2
    assert "sampler_sample" not in model.model_options["transformer_options"].get("wrappers", {})


def test_steps_are_reported_over_all_runs(moving):
    counted = []

    def count(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *rest, **named):
        def report(step, x0, x, total):
            counted.append((step, total))

        return executor(noise, latent_image, sampler, sigmas, denoise_mask, report, *rest, **named)

    model = free_init(moving, 2, fast=True).clone()
    model.add_wrapper_with_key("outer_sample", "count", count)
    spied(model, Spy([drawn(50)] * 2), latents(), steps=4)
    assert counted == [(i, 6) for i in range(6)]


def test_each_clip_of_a_batch_is_filtered_by_itself(moving):
    model = free_init(moving, 2)
    arguments = (1, 1.0, "euler", "normal", text(1), text(2))
    both = execute(MotionSampler, model, 8, *arguments, latents(6), 1.0, 3)["samples"]
    noises = []

    def keep(executor, noise, *rest, **named):
        noises.append(noise)
        return executor(noise, *rest, **named)

    spying = moving.clone()
    spying.add_wrapper_with_key("outer_sample", "spy", keep)
    first = execute(MotionSampler, spying, 8, *arguments, latents(6), 1.0, 3)["samples"]
    # The first clip's second run begins with what its own first run and its own noise give.
    sigmas = execute(custom.BasicScheduler, moving, "normal", 1, 1.0)
    fresh = drawn(Settings(2).seed(1, 8), 6)[:3]
    state = expected_noise(noises[0][:3], first[:3] * 0.18215, fresh, float(sigmas[0]), Settings(2))
    guider = execute(custom.CFGGuider, moving, text(1), text(2), 1.0)
    sampler = comfy.samplers.sampler_object("euler")
    alone = guider.sample(state, latents(3)["samples"], sampler, sigmas, disable_pbar=True, seed=8)
    torch.testing.assert_close(both[:3], alone, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "uni_pc"])
def test_any_sampler_runs_again_and_one_run_changes_nothing(moving, sampler):
    once, plain = run(free_init(moving, 1), sampler=sampler), run(moving, sampler=sampler)
    assert torch.equal(once, plain)
    twice = run(free_init(moving, 2), sampler=sampler)
    assert twice.isfinite().all() and not torch.equal(twice, plain)
    assert torch.equal(twice, run(free_init(moving, 2), sampler=sampler))


def test_a_noise_mask_holds_in_every_run(moving):
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., :4] = 1
    given = {"samples": drawn(61, 2), "noise_mask": mask}
    found = run(free_init(moving, 2), latent=given)
    torch.testing.assert_close(found[..., 4:], given["samples"][..., 4:], rtol=1e-4, atol=1e-4)


def test_samplers_of_a_part_of_the_run_are_refused(moving):
    settings = (8, 4, 1.0, "euler", "normal", text(1), text(2), {"samples": drawn(1, 2)})
    model = free_init(moving, 2)
    with pytest.raises(ValueError, match="from its own noise to a finished clip, found no added noise; give this"):
        KSamplerAdvanced().sample(model, "disable", *settings, 2, 10000, "disable")
    with pytest.raises(ValueError, match="found a last noise level of"):
        KSamplerAdvanced().sample(model, "enable", *settings, 0, 1, "enable")
    once = KSamplerAdvanced().sample(free_init(moving, 1), "enable", *settings, 0, 1, "enable")[0]["samples"]
    assert torch.equal(once, KSamplerAdvanced().sample(moving, "enable", *settings, 0, 1, "enable")[0]["samples"])
