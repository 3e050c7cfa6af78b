"""PIA's first frame in a MODEL's settings, and beside the latents of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....unet_motion import UNetMotionConfig
from ....unet_motion.control.pia import frame_influence, pia_channels
from ....unet_motion.values import quoted
from .settings import settings, with_settings

CHANNELS = 5


def reads_first_frame(config: UNetMotionConfig) -> bool:
    """Whether a UNet has the input layer that PIA's motion modules bring."""
    return config.in_channels == config.out_channels + CHANNELS


def parse_influence(text: str) -> list[float]:
    """Numbers between commas.

    Raises:
        ValueError: anything else.
    """
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values:
        raise ValueError(f"`influence` is {quoted(text)}, expected numbers between commas, such as 1.0, 0.8, 0.75.")
    return values


def set_first_frame(model: Any, latent: dict, values: list[float], loop: bool, frame: int, strength: float) -> Any:
    """A clone of a MODEL whose clips follow a picture.

    Args:
        latent: ComfyUI's LATENT of the picture; of several the first counts.
        values, loop, frame: see :func:`unet_motion.control.pia.frame_influence`.
        strength: multiplies the influence.

    Raises:
        ValueError: the MODEL has no PIA motion modules.
    """
    core = getattr(model.model.diffusion_model, "core", None)
    if core is None or not reads_first_frame(core.config):
        raise ValueError("`model` has no PIA motion modules; put Apply Motion Module with a PIA file before this node.")
    picture = model.model.process_latent_in(latent["samples"][:1])
    chosen = {"picture": picture, "values": [value * strength for value in values], "loop": loop, "frame": frame}
    return with_settings(model, pia=chosen)


def with_first_frame(x: Tensor, frames: int, config: UNetMotionConfig, options: dict) -> Tensor:
    """Latents x (conds * clips * frames, 4, H, W) with PIA's channels, where the UNet reads them.

    Raises:
        ValueError: no first frame was set, or one of another size.
    """
    if not reads_first_frame(config) or x.shape[1] != config.out_channels:
        return x
    chosen = settings(options).get("pia")
    if chosen is None:
        raise ValueError("PIA's motion modules need a picture to follow: put the PIA First Frame node before sampling.")
    picture = chosen["picture"].to(x)
    if picture.shape[-2:] != x.shape[-2:]:
        found, wanted = ("x".join(map(str, t.shape[-2:])) for t in (picture, x))
        raise ValueError(
            f"`first_frame` has {found} latents, but the clip {wanted}: encode a picture of the clip's size."
        )
    animation = options.get("ad_params", {})
    indices = animation.get("sub_idxs")
    length = animation.get("full_length", frames) if indices is not None else frames
    influence = frame_influence(chosen["values"], length, chosen["frame"], chosen["loop"])
    if indices is not None:
        influence = influence[torch.as_tensor(indices)]
    return torch.cat([x, pia_channels(picture, influence, x.shape[0] // influence.numel())], dim=1)
