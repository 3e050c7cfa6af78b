"""Samplers: small functions that walk a state from noise to picture.

All work on variance-preserving states, which is what the UNet sees, so no input is rescaled. `model(x,
timestep)` gives the raw prediction; what it means stands in the schedule. Runs over sigma / alpha, as
k-diffusion writes them, are the same updates after multiplying by alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..values import quoted
from .noise_schedule import NoiseSchedule, Steps

Model = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[Iterable[int]], Iterable[int]]


def first_order(
    model: Model,
    x: Tensor,
    schedule: NoiseSchedule,
    steps: Steps,
    generator: torch.Generator | None = None,
    watch: Watch = iter,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2021, equation 12); with eta = 0 also Euler's method on Karras' ODE, with eta = 1 its
    ancestral form: in the variance-preserving state all of them are this one update.

    x: noise of any shape and floating dtype. eta in 0..1 is the share of fresh noise. Returns the shape of x.
    """
    for i in watch(range(len(steps))):
        alpha, sigma, next_alpha, next_sigma = _levels(steps, i)
        x0, noise = schedule.split(x, model(x, steps.timesteps[i]), alpha, sigma)
        # The share of the next noise level that is drawn anew: DDIM's sigma_t with the ratio of noise levels.
        ratio = (next_sigma * alpha) / (next_alpha * sigma) if next_alpha else 0.0
        fresh = eta * next_sigma * math.sqrt(max(0.0, 1 - ratio**2))
        x = next_alpha * x0 + math.sqrt(max(0.0, next_sigma**2 - fresh**2)) * noise
        if fresh:
            x = x + fresh * _draw(x, generator)
    return x


def ancestral(model, x, schedule, steps, generator=None, watch=iter, eta: float = 1.0) -> Tensor:
    """Euler ancestral: `first_order` with fresh noise at every step but the last."""
    return first_order(model, x, schedule, steps, generator, watch, eta)


def dpmpp_2m(model, x, schedule, steps, generator=None, watch=iter) -> Tensor:
    """DPM-Solver++ (2M), Lu et al. 2022, algorithm 2: second order from the x_0 of the step before.

    The first step and a last step to zero noise are first order.
    """
    before: Tensor | None = None
    step_before = 0.0
    for i in watch(range(len(steps))):
        alpha, sigma, next_alpha, next_sigma = _levels(steps, i)
        if not next_alpha:  # from pure noise to pure noise: x stays
            continue
        x0, _ = schedule.split(x, model(x, steps.timesteps[i]), alpha, sigma)
        step = _log_snr(next_alpha, next_sigma) - _log_snr(alpha, sigma)
        target = x0
        if before is not None and next_sigma > 0 and math.isfinite(step_before):
            target = x0 + (x0 - before) * (step / (2 * step_before))
        x = (next_sigma / sigma) * x - next_alpha * math.expm1(-step) * target
        before, step_before = x0, step
    return x


def lcm(model, x, schedule, steps, generator=None, watch=iter) -> Tensor:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): jump to x_0, noise it anew.

    Without the boundary scalings of latent consistency models, which are 0 and 1 to five digits beyond
    timestep 20.
    """
    for i in watch(range(len(steps))):
        alpha, sigma, next_alpha, next_sigma = _levels(steps, i)
        x, _ = schedule.split(x, model(x, steps.timesteps[i]), alpha, sigma)
        if next_sigma:
            x = next_alpha * x + next_sigma * _draw(x, generator)
    return x


@dataclass(frozen=True)
class Sampler:
    """A sampler's function and the spacing of timesteps it is used with by default."""

    run: Callable[..., Tensor]
    spacing: str


SAMPLERS = {
    "ddim": Sampler(first_order, "trailing"),
    "euler": Sampler(first_order, "linspace"),
    "euler_ancestral": Sampler(ancestral, "linspace"),
    "dpmpp_2m": Sampler(dpmpp_2m, "linspace"),
    "lcm": Sampler(lcm, "trailing"),
}


def get_sampler(name: str) -> Sampler:
    if name not in SAMPLERS:
        raise ValueError(f"sampler {quoted(name)} is not known, expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def _levels(steps: Steps, i: int) -> tuple[float, float, float, float]:
    """alpha and sigma before step i and after it."""
    return (
        float(steps.alphas[i]),
        float(steps.sigmas[i]),
        float(steps.alphas[i + 1]),
        float(steps.sigmas[i + 1]),
    )


def _log_snr(alpha: float, sigma: float) -> float:
    """log(alpha / sigma), with the limits at pure picture and pure noise."""
    if sigma == 0:
        return math.inf
    return math.log(alpha / sigma) if alpha else -math.inf


def _draw(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise like x, drawn in float32 on the generator's device so that a seed means the same everywhere."""
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, device=device).to(x.device, x.dtype)
