"""Noise schedules by the names that animation workflows know them by."""

from __future__ import annotations

import torch
from torch import Tensor

from ..values import quoted
from .noise_schedule import NoiseSchedule

BASES: dict[str, tuple[dict, ...]] = {
    "sqrt_linear": ({"betas": "linear"},),
    "linear": ({"betas": "scaled_linear"},),
    "linear to 0.02": ({"betas": "scaled_linear", "end": 0.02},),
    "average": ({"betas": "linear"}, {"betas": "scaled_linear"}),
    "squaredcos_cap_v2": ({"betas": "squaredcos_cap_v2"},),
}
"""Name -> arguments of `NoiseSchedule.named`; of several the noise ratios are averaged.

The first two are ComfyUI's names, which swap diffusers': ``sqrt_linear`` is AnimateDiff's for SD1.5, ``linear`` that of
Stable Diffusion and HotshotXL, ``linear to 0.02`` that of AnimateDiff for SDXL.
"""

DISTILLED: dict[str, tuple[str, int]] = {
    "lcm": ("linear", 50),
    "lcm 100": ("linear", 100),
    "lcm sqrt_linear": ("sqrt_linear", 50),
    "lcm average": ("average", 50),
}
"""Name -> a name of `BASES`, and how many of its timesteps a consistency model was distilled on (Luo et al., 2023,
https://arxiv.org/abs/2310.04378)."""

NAMED_SCHEDULES = (*BASES, *DISTILLED)


def noise_ratios(name: str) -> Tensor:
    """sigma / alpha at each of a schedule's timesteps, rising, float64 (T,): 1000, or those that were distilled.

    Raises:
        ValueError: an unknown name.
    """
    if name in DISTILLED:
        base, count = DISTILLED[name]
        return distilled(noise_ratios(base), count)
    if name not in BASES:
        raise ValueError(f"noise schedule {quoted(name)} is not known, expected one of {', '.join(NAMED_SCHEDULES)}")
    return torch.stack([NoiseSchedule.named(**arguments).noise_ratios for arguments in BASES[name]]).mean(0)


def distilled(ratios: Tensor, count: int) -> Tensor:
    """Every (T // count)-th of the noise ratios (T,), the last one among them."""
    return ratios.flip(0)[:: len(ratios) // count][:count].flip(0)


def named_schedule(name: str, prediction: str = "epsilon") -> NoiseSchedule:
    """The schedule of a name that is not a distilled one, for :class:`unet_motion.MotionPipeline`.

    Raises:
        ValueError: another name.
    """
    if name not in BASES:
        raise ValueError(f"noise schedule {quoted(name)} is not known, expected one of {', '.join(BASES)}")
    return NoiseSchedule(1 / (1 + noise_ratios(name) ** 2), prediction)
