"""Noise schedules: how much noise stands at which timestep, and which timesteps a sampler visits.

Everything is variance preserving: x_t = alpha_t * x_0 + sigma_t * noise with alpha_t^2 + sigma_t^2 = 1. The
ratio sigma_t / alpha_t is what k-diffusion (and ComfyUI) call sigma; it is `noise_ratio` here. All tables
are float64 on the CPU: they are small, and the product of a thousand factors deserves the digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from ..values import quoted

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("linspace", "leading", "trailing", "karras")


def make_betas(name: str = "linear", count: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """Betas of a named schedule, float64 (count,). The names are diffusers'.

    "linear": straight in beta (ComfyUI's `sqrt_linear`). "scaled_linear": straight in sqrt(beta) (ComfyUI's
    `linear`). "squaredcos_cap_v2": the cosine schedule of Nichol and Dhariwal 2021, without start and end.

    Raises:
        ValueError: no such name, no timestep, or a beta that is not between 0 and 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1 training timestep")
    for which, beta in (("first", start), ("last", end)):
        if not 0 < beta < 1:
            raise ValueError(f"the {which} beta of the noise is {beta}, expected more than 0 and less than 1")
    if name == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    if name == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    if name == "squaredcos_cap_v2":
        edges = torch.arange(count + 1, dtype=torch.float64) / count
        level = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - level[1:] / level[:-1]).clamp(max=0.999)
    raise ValueError(f"beta schedule {quoted(name)} is not known, expected one of {', '.join(BETA_SCHEDULES)}")


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(alphas_cumprod) so that the last entry is 0 and the first stays.

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1.
    """
    roots = alphas_cumprod.double().sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    return ((roots - last) * first / (first - last)) ** 2


@dataclass(frozen=True, eq=False)
class Steps:
    """The noise levels that one run visits, from noise to picture.

    timesteps: float64 (N,), what the model is told at step i.
    alphas, sigmas: float64 (N + 1,), the state before step i; the last entry is where the run ends.
    """

    timesteps: Tensor
    alphas: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def part(self, start: int, stop: int) -> Steps:
        """The steps from ``start`` to before ``stop``."""
        return Steps(self.timesteps[start:stop], self.alphas[start : stop + 1], self.sigmas[start : stop + 1])


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A trained noise schedule: float64 alphas_cumprod (T,), and what the model predicts.

    prediction is "epsilon", "v_prediction" (Salimans and Ho 2022: v = alpha * noise - sigma *
    x_0) or "sample".
    """

    alphas_cumprod: Tensor
    prediction: str = "epsilon"

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            known = ", ".join(PREDICTIONS)
            raise ValueError(f"prediction {quoted(self.prediction)} is not known, expected one of {known}")

    @classmethod
    def named(
        cls,
        betas: str = "linear",
        count: int = 1000,
        start: float = 0.00085,
        end: float = 0.012,
        prediction: str = "epsilon",
        zero_terminal_snr: bool = False,
    ) -> NoiseSchedule:
        """The schedule with these betas (see `make_betas`); the defaults are those of AnimateDiff v1-v3."""
        alphas_cumprod = torch.cumprod(1 - make_betas(betas, count, start, end), dim=0)
        if zero_terminal_snr:
            alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
        return cls(alphas_cumprod, prediction)

    @property
    def noise_ratios(self) -> Tensor:
        """sigma / alpha at every training timestep, rising, float64 (T,): k-diffusion's sigmas."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def noise_ratio_at(self, timesteps: Tensor) -> Tensor:
        """sigma / alpha at fractional timesteps, interpolated in its logarithm, as in k-diffusion."""
        timesteps = timesteps.double()
        low = timesteps.floor().long().clamp(0, len(self.alphas_cumprod) - 1)
        high = timesteps.ceil().long().clamp(0, len(self.alphas_cumprod) - 1)
        weight = timesteps - low
        logs = self.noise_ratios.log()
        # Where both ends are the same entry its value is taken as it is: at zero SNR that entry is infinite.
        mixed = logs[low] + torch.where(weight > 0, weight * (logs[high] - logs[low]), 0.0)
        return mixed.exp()

    def timestep_at(self, noise_ratios: Tensor) -> Tensor:
        """The fractional timesteps with these sigma / alpha: the inverse of `noise_ratio_at`, clamped."""
        table = self.noise_ratios.log()
        logs = noise_ratios.double().log().clamp(table[0], table[-1])
        low = (torch.searchsorted(table, logs, right=True) - 1).clamp(0, len(table) - 2)
        return low + (logs - table[low]) / (table[low + 1] - table[low])

    def steps(self, count: int, spacing: str = "linspace", offset: int = 0) -> Steps:
        """`count` noise levels and the end at zero noise.

        spacing "linspace" (both ends of the table), "leading" and "trailing" are diffusers' (Lin et al.
        2023, table 2); "karras" is Karras et al. 2022, equation 5 with rho 7. `offset` is diffusers'
        steps_offset: it is added to the "leading" timesteps and has no meaning for the others.
        """
        total = len(self.alphas_cumprod)
        if not isinstance(count, Integral) or not 1 <= count <= total:
            raise ValueError(f"steps is {count}, expected a whole number, 1 to {total}")
        if spacing == "linspace":
            timesteps = torch.linspace(total - 1, 0, count, dtype=torch.float64)
        elif spacing == "leading":
            timesteps = torch.arange(count - 1, -1, -1, dtype=torch.float64) * (total // count) + offset
        elif spacing == "trailing":
            timesteps = (total - torch.arange(count, dtype=torch.float64) * (total / count)).round() - 1
        elif spacing == "karras":
            timesteps = self.timestep_at(self._karras(count))
        else:
            raise ValueError(f"spacing {quoted(spacing)} is not known, expected one of {', '.join(SPACINGS)}")
        return self.steps_at(timesteps)

    def steps_at(self, timesteps: Tensor, end: float = 0.0) -> Steps:
        """The noise levels at given falling timesteps, and the end with sigma / alpha = `end`."""
        timesteps = timesteps.double()
        last = len(self.alphas_cumprod) - 1
        if timesteps.numel() == 0 or timesteps.max() > last or timesteps.min() < 0:
            raise ValueError(f"timesteps are {timesteps.tolist()}, expected at least one, each from 0 to {last}")
        if (timesteps.diff() >= 0).any():
            raise ValueError(f"timesteps are {timesteps.tolist()}, expected each to be below the one before")
        ratios = torch.cat([self.noise_ratio_at(timesteps), torch.tensor([end], dtype=torch.float64)])
        alphas = (1 + ratios**2).rsqrt()
        sigmas = torch.where(ratios.isinf(), 1.0, ratios * alphas)
        if self.prediction == "epsilon" and alphas[0] == 0:
            raise ValueError(
                f"timestep {timesteps[0]:g} has zero signal-to-noise ratio, where a model of epsilon "
                "cannot start: expected v_prediction, or a schedule without zero_terminal_snr"
            )
        return Steps(timesteps, alphas, sigmas)

    def split(self, x: Tensor, output: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """(x_0, noise) that the model's `output` at state `x` stands for; all of one shape."""
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha, output
        if self.prediction == "v_prediction":
            return alpha * x - sigma * output, alpha * output + sigma * x
        return output, (x - alpha * output) / sigma

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha_t * x_0 + sigma_t * noise, with one whole timestep per row: (rows,) for x0 (rows, ...)."""
        level = self.alphas_cumprod[timesteps.long().cpu()].view(-1, *[1] * (x0.ndim - 1))
        alpha, sigma = (part.to(x0.device, x0.dtype) for part in (level.sqrt(), (1 - level).sqrt()))
        return alpha * x0 + sigma * noise

    def _karras(self, count: int, rho: float = 7.0) -> Tensor:
        ratios = self.noise_ratios
        low, high = ratios[0] ** (1 / rho), ratios[-1] ** (1 / rho)
        if torch.isinf(high):
            raise ValueError("spacing 'karras' needs a finite noise level, expected no zero_terminal_snr")
        return (high + torch.linspace(0, 1, count, dtype=torch.float64) * (low - high)) ** rho


# Keys of a bundled model's description -> arguments of NoiseSchedule.named.
INFO_KEYS = {
    "beta_schedule": "betas",
    "train_timesteps": "count",
    "beta_start": "start",
    "beta_end": "end",
    "prediction": "prediction",
}
