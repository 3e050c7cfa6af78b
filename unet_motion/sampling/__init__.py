"""Sampling: noise schedules, samplers, noise, and the pipeline from a prompt to frames."""

from .samplers import SAMPLERS, Sampler, get_sampler
from .schedules import (
    BETA_SCHEDULES,
    PREDICTIONS,
    SPACINGS,
    NoiseSchedule,
    Steps,
    make_betas,
    rescale_zero_terminal_snr,
)

__all__ = [
    "BETA_SCHEDULES",
    "PREDICTIONS",
    "SAMPLERS",
    "SPACINGS",
    "NoiseSchedule",
    "Sampler",
    "Steps",
    "get_sampler",
    "make_betas",
    "rescale_zero_terminal_snr",
]
