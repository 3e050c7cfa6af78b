"""This project's UNet in a pipeline of diffusers that exists already, and its own one back."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel as TheirUNet

from .models import UNetMotionModel


def accelerate(pipe: Any) -> None:
    """Put this project's UNet in the place of a pipeline's ``UNetMotionModel``; it shares the weights.

    FreeU's factors and the training mode stay; :func:`restore` puts the pipeline's own UNet back. What is loaded
    afterwards, such as LoRAs, is loaded into the UNet that is there then.

    Raises:
        TypeError: the pipeline has no motion UNet of diffusers.
        ValueError: adapters are loaded into it, which do not move.
    """
    theirs = getattr(pipe, "unet", None)
    if isinstance(theirs, UNetMotionModel):
        return
    if not isinstance(theirs, TheirUNet):
        raise TypeError(f"`pipe.unet` is a {type(theirs).__name__}, expected diffusers' UNetMotionModel.")
    if getattr(theirs, "peft_config", None) or theirs.encoder_hid_proj is not None:
        raise ValueError("`pipe.unet` has LoRAs or an IP-Adapter loaded, expected none: load them after `accelerate`.")
    with torch.device("meta"):
        ours = UNetMotionModel.from_config(theirs.config)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.requires_grad_(their.requires_grad)
    factors = [getattr(theirs.up_blocks[0], name, None) for name in ("s1", "s2", "b1", "b2")]
    given = [float(factor) for factor in factors if factor is not None]
    if len(given) == len(factors):
        s1, s2, b1, b2 = given
        ours.enable_freeu(s1, s2, b1, b2)
    object.__setattr__(ours, "_replaced", theirs)
    pipe.unet = ours.train(theirs.training)


def restore(pipe: Any) -> None:
    """Undo :func:`accelerate`: weights that were trained meanwhile are those of the pipeline's UNet too.

    Raises:
        ValueError: the pipeline's UNet was not put there by :func:`accelerate`.
    """
    theirs = pipe.unet.__dict__.get("_replaced") if isinstance(pipe.unet, UNetMotionModel) else None
    if theirs is None:
        raise ValueError(f"`pipe.unet` is a {type(pipe.unet).__name__} that `accelerate` did not put there.")
    theirs.load_state_dict(pipe.unet.state_dict(), assign=True)
    pipe.unet = theirs.train(pipe.unet.training)
