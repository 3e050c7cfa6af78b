"""Sampling: noise schedules, samplers, noise, and the pipeline from a prompt to frames."""

from .context_windows import FUSES, SCHEDULES, ContextWindows
from .named_schedules import NAMED_SCHEDULES, named_schedule, noise_ratios
from .noise import NOISES, clip_noise, frame_noise, free_noise, seeded_generator
from .noise_schedule import (
    BETA_SCHEDULES,
    PREDICTIONS,
    SPACINGS,
    NoiseSchedule,
    Steps,
    make_betas,
    rescale_zero_terminal_snr,
)
from .pipeline import MotionPipeline
from .samplers import SAMPLERS, Sampler, get_sampler

__all__ = [
    "BETA_SCHEDULES",
    "FUSES",
    "NAMED_SCHEDULES",
    "NOISES",
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "ContextWindows",
    "MotionPipeline",
    "NoiseSchedule",
    "Sampler",
    "Steps",
    "clip_noise",
    "frame_noise",
    "free_noise",
    "get_sampler",
    "make_betas",
    "named_schedule",
    "noise_ratios",
    "rescale_zero_terminal_snr",
    "seeded_generator",
]
