"""Noise schedules of MODELs by name, as core's ModelSamplingDiscrete sets them."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_sampling
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled

from ....unet_motion.sampling.named_schedules import BASES, DISTILLED, noise_ratios

AUTO, KEEP = "auto", "keep"
BY_SETTINGS = {
    "sqrt_linear": ("sqrt_linear", 0.00085, 0.012),
    "linear": ("linear", 0.00085, 0.012),
    "linear to 0.02": ("linear", 0.00085, 0.02),
}
"""Name -> ComfyUI's sampling settings: beta schedule, first and last beta."""

BETA_SCHEDULES = (AUTO, KEEP, *BASES, *DISTILLED)
MODEL_SAMPLING = "model_sampling"


def set_schedule(model: Any, name: str) -> None:
    """Give a MODEL of one's own a schedule that sampling settings do not describe; the others are left as they are."""
    if name in BY_SETTINGS or name in (AUTO, KEEP):
        return
    model.add_object_patch(MODEL_SAMPLING, _model_sampling(model.model, name))


def _model_sampling(base: Any, name: str) -> Any:
    if name not in DISTILLED:
        sampling = comfy.model_base.model_sampling(base.model_config, base.model_type)
        sampling.set_sigmas(noise_ratios(name))
        return sampling

    class Distilled(ModelSamplingDiscreteDistilled, LCM):
        original_timesteps = DISTILLED[name][1]

    sampling = Distilled(base.model_config)
    sampling.set_sigmas(noise_ratios(name))
    return sampling
