"""Sampling: noise schedules, samplers, noise, and the pipeline from a prompt to frames."""

from .context_windows import FUSES, SCHEDULES, ContextWindows
from .free_init import FILTERS, FreeInit
from .image_injection import ImageInjection
from .named_schedules import NAMED_SCHEDULES, named_schedule, noise_ratios
from .noise import (
    NOISES,
    NoiseMix,
    arranged,
    clip_noise,
    frame_noise,
    free_noise,
    free_noise_of,
    mix_noise,
    seed_apart,
    seeded_generator,
)
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
from .ranks import Ranks
from .samplers import SAMPLERS, Sampler, get_sampler
from .step_cache import PRESETS as STEP_CACHES
from .step_cache import StepCache, StepReport
from .timeline import timeline_arguments
from .window_parts import WindowPart

__all__ = [
    "BETA_SCHEDULES",
    "FILTERS",
    "FUSES",
    "NAMED_SCHEDULES",
    "NOISES",
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "STEP_CACHES",
    "ContextWindows",
    "FreeInit",
    "ImageInjection",
    "MotionPipeline",
    "NoiseMix",
    "NoiseSchedule",
    "Ranks",
    "Sampler",
    "StepCache",
    "StepReport",
    "Steps",
    "WindowPart",
    "arranged",
    "clip_noise",
    "frame_noise",
    "free_noise",
    "free_noise_of",
    "get_sampler",
    "make_betas",
    "mix_noise",
    "named_schedule",
    "noise_ratios",
    "rescale_zero_terminal_snr",
    "seed_apart",
    "seeded_generator",
    "timeline_arguments",
]
