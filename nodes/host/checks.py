"""Checks of what comes into a node, with sentences that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...unet_motion.values import quoted
from .model.ldm_view import LDMView


def check_choice(name: str, value: str, options: Sequence[str]) -> None:
    """Raise ValueError unless a value is one of an input's options; older ComfyUI versions do not check that."""
    if value not in options:
        raise ValueError(f"`{name}` is {quoted(value)}, expected one of {', '.join(options)}.")


def require_motion_model(model: Any) -> LDMView:
    """The motion UNet of a MODEL.

    Raises:
        ValueError: the MODEL has none.
    """
    unet = model.model.diffusion_model
    if not isinstance(unet, LDMView):
        raise ValueError(
            f"`model` is a {type(unet).__name__} without motion modules; put Apply Motion Module before this node."
        )
    return unet


def check_latent_clip(name: str, samples: Any) -> None:
    """Raise ValueError unless latents are the frames of a clip, (frames, channels, height, width)."""
    if getattr(samples, "is_nested", False):
        raise ValueError(f"`{name}` holds several latents of different kinds, expected one clip.")
    if samples.ndim != 4:
        raise ValueError(f"`{name}` has shape {tuple(samples.shape)}, expected (frames, channels, height, width).")
    if len(samples) < 1:
        raise ValueError(f"`{name}` holds 0 frames, expected at least 1.")


def check_frames(model: Any, shape: Sequence[int], frames_per_clip: int) -> None:
    """Raise ValueError unless latents (frames, C, H, W) make whole clips that the model has positions for."""
    if len(shape) != 4:
        raise ValueError(f"`latent_image` has shape {tuple(shape)}, expected (frames, channels, height, width).")
    count = shape[0]
    if count < 1:
        raise ValueError("`latent_image` holds 0 frames, expected at least 1.")
    frames = frames_per_clip or count
    if count % frames:
        raise ValueError(f"`latent_image` holds {count} frames, expected a multiple of `frames_per_clip` {frames}.")
    rows = require_motion_model(model).core.config.motion_max_seq_length
    # Windows are looked at when the run begins: there it is known which steps they are for.
    if frames > rows and "context_handler" not in model.model_options:
        raise ValueError(
            f"a clip of {frames} frames was asked for, but the motion module knows {rows} positions; use at most "
            f"{rows} frames, Context Windows (motion), several clips with `frames_per_clip`, or `position_interpolate` "
            f"{frames} in Load Motion Module."
        )
