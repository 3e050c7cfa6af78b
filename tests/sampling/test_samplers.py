"""Samplers and schedules against diffusers (the same model function) and against closed forms."""

import math

import diffusers
import pytest
import torch

from unet_motion.sampling import SAMPLERS, NoiseSchedule, get_sampler, make_betas

SHAPE = (3, 4, 5, 6)
PREDICTIONS = ["epsilon", "v_prediction"]


def model(x, timestep):
    """A bounded, smooth stand-in for a UNet that depends on the state, the timestep and the position."""
    place = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).view(x[0].shape)
    return torch.tanh(0.7 * x + place) + 0.1 * math.cos(float(timestep) / 100)


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def noise(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def run_diffusers(scheduler, x, scaled=False, **step_arguments):
    """diffusers' loop; with `scaled` its state is x / alpha, as in the k-diffusion family."""
    if scaled:
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        x = scheduler.step(model(seen, t), t, x, **step_arguments).prev_sample
    return x


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_equal_diffusers(name):
    reference = diffusers.DDIMScheduler(beta_schedule=name, beta_start=0.00085, beta_end=0.012)
    assert torch.allclose(make_betas(name).float(), reference.betas, rtol=2e-5, atol=1e-8)
    ours = NoiseSchedule.named(name).alphas_cumprod
    assert torch.allclose(ours.float(), reference.alphas_cumprod, rtol=2e-4 if "cos" in name else 2e-5, atol=1e-9)


def test_largest_noise_ratios_are_the_published_ones():
    for name, end, expected in [
        ("linear", 0.012, 25.15),
        ("scaled_linear", 0.012, 14.61),
        ("scaled_linear", 0.02, 65.93),
    ]:
        assert float(NoiseSchedule.named(name, end=end).noise_ratios[-1]) == pytest.approx(expected, abs=0.01)


def test_zero_terminal_snr_equals_diffusers():
    reference = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True
    ).alphas_cumprod
    ours = NoiseSchedule.named("scaled_linear", zero_terminal_snr=True, prediction="v_prediction").alphas_cumprod
    assert ours[-1] == 0
    assert ours[0] == NoiseSchedule.named("scaled_linear").alphas_cumprod[0]
    assert torch.allclose(ours.float(), reference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("count", [1, 5, 20, 50])
def test_ddim_equals_diffusers(spacing, prediction, count):
    reference = diffusers.DDIMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        timestep_spacing=spacing, prediction_type=prediction,
    )  # fmt: skip
    reference.set_timesteps(count)
    schedule = NoiseSchedule.named("linear", prediction=prediction)
    steps = schedule.steps(count, spacing)
    assert steps.timesteps.tolist() == reference.timesteps.tolist()
    ours = get_sampler("ddim").run(model, noise(), schedule, steps)
    assert relative(ours, run_diffusers(reference, noise())) <= 1e-5


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("count", [3, 7, 13, 30, 33, 301, 997])
def test_timesteps_of_counts_that_do_not_divide_are_those_of_diffusers(count, spacing, offset):
    reference = diffusers.EulerDiscreteScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, timestep_spacing=spacing, steps_offset=offset
    )
    reference.set_timesteps(count)
    ours = NoiseSchedule.named("linear").steps(count, spacing, offset)
    assert torch.allclose(ours.timesteps.float(), reference.timesteps.float(), rtol=0, atol=1e-4)


def test_ddim_from_zero_terminal_snr_equals_diffusers():
    reference = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True,
    )  # fmt: skip
    reference.set_timesteps(10)
    schedule = NoiseSchedule.named("scaled_linear", prediction="v_prediction", zero_terminal_snr=True)
    ours = get_sampler("ddim").run(model, noise(), schedule, schedule.steps(10, "trailing"))
    assert relative(ours, run_diffusers(reference, noise())) <= 1e-5


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_from_pure_noise_to_pure_noise_changes_nothing_or_draws_anew(name):
    """Timesteps above the last but one are all without signal where the last one is."""
    schedule = NoiseSchedule.named("scaled_linear", prediction="v_prediction", zero_terminal_snr=True)
    ours = run_seeded(name, noise(), schedule, [999.0, 998.5, 400.0, 30.0])
    generator, start = torch.Generator().manual_seed(3), noise()
    if name in ("euler_ancestral", "lcm"):
        start = torch.randn(SHAPE, generator=generator)
    expected = run_seeded(name, start, schedule, [998.5, 400.0, 30.0], generator)
    assert torch.isfinite(ours).all() and relative(ours, expected) <= 1e-6


def run_seeded(name, x, schedule, timesteps, generator=None):
    generator = generator or torch.Generator().manual_seed(3)
    steps = schedule.steps_at(torch.tensor(timesteps))
    return get_sampler(name).run(model, x, schedule, steps, generator)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing, count", [("linspace", 10), ("linspace", 28), ("leading", 20), ("trailing", 25)])
def test_euler_equals_diffusers(spacing, count, prediction):
    # These counts give whole timesteps, where diffusers' straight and our logarithmic interpolation agree.
    reference = diffusers.EulerDiscreteScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )
    reference.set_timesteps(count)
    schedule = NoiseSchedule.named("linear", prediction=prediction)
    steps = schedule.steps(count, spacing)
    assert torch.allclose(steps.timesteps.float(), reference.timesteps.float(), atol=1e-4)
    ours = get_sampler("euler").run(model, noise(), schedule, steps)
    assert relative(ours, run_diffusers(reference, noise(), scaled=True)) <= 1e-5


def test_karras_spacing_equals_diffusers():
    reference = diffusers.EulerDiscreteScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, use_karras_sigmas=True
    )
    reference.set_timesteps(12)
    schedule = NoiseSchedule.named("linear")
    steps = schedule.steps(12, "karras")
    assert torch.allclose((steps.sigmas / steps.alphas).float(), reference.sigmas, rtol=2e-5, atol=1e-7)
    assert torch.allclose(steps.timesteps.float(), reference.timesteps.float(), atol=0.02)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("count", [1, 2, 8, 20])
def test_dpmpp_2m_equals_diffusers(spacing, count, prediction):
    reference = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )
    reference.set_timesteps(count)
    schedule = NoiseSchedule.named("linear", prediction=prediction)
    # diffusers spaces this scheduler one step wider than the others, so the timesteps are taken from it.
    steps = schedule.steps_at(reference.timesteps)
    ours = get_sampler("dpmpp_2m").run(model, noise(), schedule, steps)
    assert relative(ours, run_diffusers(reference, noise())) <= 1e-5


def test_ancestral_equals_ddim_with_eta_one_in_diffusers():
    reference = diffusers.DDIMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    reference.set_timesteps(10)
    schedule = NoiseSchedule.named("linear")
    ours = get_sampler("euler_ancestral").run(
        model, noise(), schedule, schedule.steps(10, "trailing"), torch.Generator().manual_seed(7)
    )
    theirs = run_diffusers(reference, noise(), eta=1.0, generator=torch.Generator().manual_seed(7))
    assert relative(ours, theirs) <= 1e-5


def test_ancestral_equals_eulers_ancestral_form_in_diffusers():
    reference = diffusers.EulerAncestralDiscreteScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="linspace"
    )
    reference.set_timesteps(10)
    schedule = NoiseSchedule.named("linear")
    ours = get_sampler("euler_ancestral").run(
        model, noise(), schedule, schedule.steps(10, "linspace"), torch.Generator().manual_seed(7)
    )
    theirs = run_diffusers(reference, noise(), scaled=True, generator=torch.Generator().manual_seed(7))
    assert relative(ours, theirs) <= 1e-5


def test_lcm_equals_diffusers():
    reference = diffusers.LCMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        original_inference_steps=50,
    )
    reference.set_timesteps(4)
    schedule = NoiseSchedule.named("linear")
    ours = get_sampler("lcm").run(
        model, noise(), schedule, schedule.steps_at(reference.timesteps), torch.Generator().manual_seed(7)
    )
    assert relative(ours, run_diffusers(reference, noise(), generator=torch.Generator().manual_seed(7))) <= 1e-5


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_model_of_one_point_is_sampled_exactly(name, prediction):
    """When all data is one picture, the ideal prediction is known and every sampler ends on that picture."""
    picture = torch.linspace(-1, 1, 120, dtype=torch.float64).view(1, 4, 5, 6)
    schedule = NoiseSchedule.named("linear", prediction=prediction)
    steps = schedule.steps(6, get_sampler(name).spacing)

    def ideal(x, timestep):
        ratio = float(schedule.noise_ratio_at(timestep.view(1)))
        alpha = 1 / math.sqrt(1 + ratio**2)
        sigma = ratio * alpha
        guess = (x - alpha * picture) / sigma
        return guess if prediction == "epsilon" else alpha * guess - sigma * picture

    ours = get_sampler(name).run(ideal, noise().double()[:1], schedule, steps, torch.Generator().manual_seed(0))
    assert (ours - picture).abs().max() <= 1e-9


@pytest.mark.parametrize("name, order", [("euler", 1), ("dpmpp_2m", 2)])
def test_error_falls_with_the_samplers_order(name, order):
    """For normal data of deviation s the ODE is solved by x(r) ~ sqrt(s^2 + r^2), r = sigma / alpha."""
    s = 0.5
    schedule = NoiseSchedule.named("linear")
    table = schedule.noise_ratios

    def ideal(x, timestep):
        ratio = float(schedule.noise_ratio_at(timestep.view(1)))
        return x * math.sqrt(1 + ratio**2) * ratio / (s**2 + ratio**2)

    def error(count):
        logs = torch.linspace(math.log(10), math.log(0.1), count + 1, dtype=torch.float64)
        timesteps = schedule.timestep_at(logs.exp())
        steps = schedule.steps_at(timesteps[:-1], end=0.1)
        start = torch.ones(1, 1, dtype=torch.float64)
        end = get_sampler(name).run(ideal, start, schedule, steps) * math.sqrt(1 + 0.1**2)
        exact = math.sqrt(1 + 10**2) * math.sqrt((s**2 + 0.1**2) / (s**2 + 10**2))
        return abs(float(end) / exact - 1)

    assert table[0] < 0.1 and table[-1] > 10
    assert math.log2(error(40) / error(80)) == pytest.approx(order, abs=0.25)


def test_timestep_and_noise_ratio_are_inverse():
    schedule = NoiseSchedule.named("linear")
    timesteps = torch.tensor([999.0, 750.25, 12.5, 0.0], dtype=torch.float64)
    assert torch.allclose(schedule.timestep_at(schedule.noise_ratio_at(timesteps)), timesteps, atol=1e-6)


def test_add_noise_keeps_the_stated_signal_to_noise_ratio():
    schedule = NoiseSchedule.named("linear")
    x0, z = torch.full((2, 3), 2.0), torch.full((2, 3), 1.0)
    noisy = schedule.add_noise(x0, z, torch.tensor([0, 999]))
    cumprod = schedule.alphas_cumprod[[0, 999]]
    expected = (2 * cumprod.sqrt() + (1 - cumprod).sqrt()).float().view(2, 1).expand(2, 3)
    assert torch.allclose(noisy, expected)


def test_same_generator_seed_gives_the_same_result_and_another_does_not():
    schedule = NoiseSchedule.named("linear")

    def run(seed):
        steps = schedule.steps(5)
        return get_sampler("euler_ancestral").run(model, noise(), schedule, steps, torch.Generator().manual_seed(seed))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("name", ["euler_ancestral", "lcm"])
def test_without_a_generator_noise_comes_from_that_of_torch(name):
    schedule = NoiseSchedule.named("linear")
    expected = run_seeded(name, noise(), schedule, [998.5, 400.0, 30.0])
    torch.manual_seed(3)
    steps = schedule.steps_at(torch.tensor([998.5, 400.0, 30.0]))
    assert torch.equal(get_sampler(name).run(model, noise(), schedule, steps), expected)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: get_sampler("elur"), ["'elur'", "dpmpp_2m"]),
        (lambda: make_betas("quadratic"), ["'quadratic'", "scaled_linear"]),
        (lambda: NoiseSchedule.named(prediction="eps"), ["'eps'", "v_prediction"]),
        (lambda: NoiseSchedule.named().steps(0), ["0", "1 to 1000"]),
        (lambda: NoiseSchedule.named().steps(1001), ["1001", "1 to 1000"]),
        (lambda: NoiseSchedule.named().steps(5, "even"), ["'even'", "trailing"]),
        (lambda: NoiseSchedule.named().steps_at(torch.tensor([3.0, 5.0])), ["3.0, 5.0", "below"]),
        (lambda: NoiseSchedule.named().steps_at(torch.tensor([1000.0])), ["1000.0", "0 to 999"]),
        (lambda: NoiseSchedule.named(zero_terminal_snr=True).steps(5), ["zero", "v_prediction"]),
    ],
)
def test_errors_name_what_was_found_and_what_was_expected(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)
