"""Before a MODEL samples: text that does not fit the frames is an error, settings that give noise are named."""

from __future__ import annotations

import logging
from typing import Any

import comfy.patcher_extension
from torch import Tensor

from ....unet_motion.formats.advice import RunSettings, advise
from ....unet_motion.formats.kinds import MotionKind
from ..page.notices import say_on_node
from .hooks import KEY
from .settings import settings

ADVICE = f"{KEY}.advice"
PIXELS = 8
"""Of a latent, in each direction."""


def look_before_sampling(model: Any) -> None:
    """Make a MODEL look at its run before it begins."""

    def wrapper(executor, noise, latent_image, sampler, sigmas, *rest, **named):
        guider = executor.class_obj
        options = getattr(guider, "model_options", {}).get("transformer_options", {})
        frames = settings(options).get("frames_per_clip") or len(noise)
        check_text_rows(getattr(guider, "conds", {}), frames, len(noise))
        told = advice_for(guider, noise, sampler, len(sigmas) - 1, frames)
        if told is not None:
            logging.warning("%s", told)
            say_on_node(told)
        return executor(noise, latent_image, sampler, sigmas, *rest, **named)

    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    model.remove_wrappers_with_key(kind, ADVICE)
    model.add_wrapper_with_key(kind, ADVICE, wrapper)


def check_text_rows(conds: dict[str, list[dict]], frames: int, rows: int) -> None:
    """Raise ValueError for text of several rows that are not the clip's frames; ComfyUI would repeat or cut it.

    Args:
        rows: of the batch.
    """
    for entries in conds.values():
        for entry in entries or ():
            text = entry.get("cross_attn")
            if isinstance(text, Tensor) and len(text) not in (1, frames, rows):
                raise ValueError(
                    f"the conditioning has text for {len(text)} frames, but the clip has {frames}: give `frames` of "
                    f"Prompt Schedule that number."
                )


def advice_for(guider: Any, noise: Tensor, sampler: Any, steps: int, frames: int) -> str | None:
    """See :func:`unet_motion.formats.advice.advise`; None where the kind of the motion modules is not known."""
    view = guider.model_patcher.model.diffusion_model
    kind: MotionKind | None = getattr(view, "motion_kind", None)
    if kind is None:
        return None
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    patcher = guider.model_patcher
    own = "model_sampling" not in patcher.object_patches
    table = patcher.model.model_config.sampling_settings if own else {}
    known = (table["beta_schedule"], table.get("linear_end", 0.012)) if "beta_schedule" in table else None
    pixels = noise.shape[-2] * noise.shape[-1] * PIXELS**2
    cfg = getattr(guider, "cfg", None)
    run = RunSettings(frames, name.removeprefix("sample_"), steps, cfg, pixels, known)
    return advise(kind, run)
