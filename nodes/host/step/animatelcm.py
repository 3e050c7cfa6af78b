"""The picture that AnimateLCM-I2V's modules animate, in a MODEL's settings and beside the latents of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....unet_motion import UNetMotionConfig
from .settings import settings, with_settings


def set_picture(model: Any, latent: dict, motion_scale: float, strength: float) -> Any:
    """A clone of a MODEL whose clips animate a picture.

    Args:
        latent: ComfyUI's LATENT of one picture, or of one for every frame of the clip.
        motion_scale: how far the frames move apart, see :class:`unet_motion.model.image_encoder.ImageEncoder`.
        strength: multiplies what the image encoder adds.

    Raises:
        ValueError: the MODEL has no AnimateLCM-I2V motion modules.
    """
    core = getattr(model.model.diffusion_model, "core", None)
    if core is None or not core.config.use_image_encoder:
        raise ValueError(
            "`model` has no AnimateLCM-I2V motion modules; put Apply Motion Module with an AnimateLCM-I2V file before "
            "this node."
        )
    latents = model.model.process_latent_in(latent["samples"])
    return with_settings(model, picture={"latents": latents, "motion_scale": motion_scale, "strength": strength})


def picture_inputs(x: Tensor, frames: int, config: UNetMotionConfig, options: dict) -> dict[str, Any]:
    """What the core's image encoder reads of a call on latents x (conds * clips * frames, 4, H, W); empty without one.

    Raises:
        ValueError: no picture was set, one of another size, or as many as fit neither one nor every frame.
    """
    if not config.use_image_encoder:
        return {}
    chosen = settings(options).get("picture")
    if chosen is None:
        raise ValueError(
            "AnimateLCM-I2V's motion modules need a picture to animate: put the AnimateLCM-I2V Picture node before "
            "sampling."
        )
    latents = chosen["latents"]
    if latents.shape[-2:] != x.shape[-2:]:
        found, wanted = ("x".join(map(str, t.shape[-2:])) for t in (latents, x))
        raise ValueError(f"`picture` has {found} latents, but the clip {wanted}: encode a picture of the clip's size.")
    given = {"image_motion_scale": chosen["motion_scale"], "image_strength": chosen["strength"]}
    if len(latents) == 1:
        return {"image_latents": latents.to(x), **given}
    animation = options.get("ad_params", {})
    indices = animation.get("sub_idxs")
    length = animation.get("full_length", frames) if indices is not None else frames
    if len(latents) != length:
        raise ValueError(f"`picture` holds {len(latents)} pictures, expected 1, or {length} as the clip has frames.")
    if indices is None:
        return {"image_latents": latents.to(x).transpose(0, 1)[None], **given}
    # Only those of the windows go to the device. Several windows in one batch are clips of their own, the same ones for
    # each cond.
    latents = latents[torch.as_tensor(indices)].to(x).unflatten(0, (-1, frames)).transpose(1, 2)
    if len(latents) > 1:
        latents = latents.repeat(x.shape[0] // (len(latents) * frames), 1, 1, 1, 1)
    return {"image_latents": latents, **given}
