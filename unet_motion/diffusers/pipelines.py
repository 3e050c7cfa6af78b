"""This project's UNet in a pipeline of diffusers that exists already, and its own one back."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import FreeNoiseTransformerBlock
from diffusers.models.unets.unet_motion_model import UNetMotionModel as TheirUNet
from diffusers.pipelines.free_noise_utils import SplitInferenceModule

from .models import UNetMotionModel

FACTORS = ("s1", "s2", "b1", "b2")


def accelerate(pipe: Any) -> None:
    """Put this project's UNet in the place of a pipeline's ``UNetMotionModel``; it shares the weights.

    FreeU's factors, gradient checkpointing and the training mode stay; :func:`restore` puts the pipeline's own UNet
    back. What is loaded or turned on afterwards, such as LoRAs, is so in the UNet that is there then.

    Raises:
        TypeError: the pipeline has no motion UNet of diffusers.
        ValueError: something is loaded into it or turned on in it that does not move.
    """
    theirs = getattr(pipe, "unet", None)
    if isinstance(theirs, UNetMotionModel):
        return
    if not isinstance(theirs, TheirUNet):
        raise TypeError(f"`pipe.unet` is a {type(theirs).__name__}, expected diffusers' UNetMotionModel.")
    if found := _immovable(theirs):
        raise ValueError(f"`pipe.unet` has {found}, expected none: load or turn them on after `accelerate`.")
    with torch.device("meta"):
        ours = UNetMotionModel.from_config(theirs.config)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.requires_grad_(their.requires_grad)
    given = [getattr(theirs.up_blocks[0], name, None) for name in FACTORS]
    factors = [float(factor) for factor in given if factor is not None]
    if len(factors) == len(FACTORS):
        s1, s2, b1, b2 = factors
        ours.enable_freeu(s1, s2, b1, b2)
    if theirs.is_gradient_checkpointing:
        ours.enable_gradient_checkpointing()
    object.__setattr__(ours, "_replaced", theirs)
    pipe.unet = ours.train(theirs.training)


def restore(pipe: Any) -> None:
    """Undo :func:`accelerate`: weights that were trained meanwhile are those of the pipeline's UNet too.

    FreeU is as it was set last.

    Raises:
        ValueError: the pipeline's UNet was not put there by :func:`accelerate`, or something is loaded into it or
            turned on in it that does not move, such as FreeU of version 2, which diffusers does not have.
    """
    ours: Any = getattr(pipe, "unet", None)
    theirs = ours.__dict__.get("_replaced") if isinstance(ours, UNetMotionModel) else None
    if theirs is None:
        raise ValueError(f"`pipe.unet` is a {type(ours).__name__} that `accelerate` did not put there.")
    if found := _immovable(ours):
        raise ValueError(f"`pipe.unet` has {found}, expected none: unload or turn them off before `restore`.")
    freeu = ours.defaults.freeu
    if freeu is not None and freeu.version != "v1":
        raise ValueError(f"`pipe.unet` has FreeU {freeu.version}, expected v1 or none: diffusers has no other.")
    theirs.load_state_dict(ours.state_dict(), assign=True)
    if freeu is None:
        theirs.disable_freeu()
    else:
        theirs.enable_freeu(*(getattr(freeu, name) for name in FACTORS))
    pipe.unet = theirs.train(ours.training)


def _immovable(unet: Any) -> str:
    """What a UNet has beside its weights that another UNet would lose without a word; empty where there is nothing."""
    modules = list(unet.modules())
    has = {
        "LoRAs": getattr(unet, "peft_config", None),
        "an IP-Adapter": unet.encoder_hid_proj is not None,
        "FreeNoise": any(isinstance(module, FreeNoiseTransformerBlock) for module in modules),
        "fused projections": any(getattr(module, "fused_projections", False) for module in modules),
        "hooks of offloading or casting": any(map(_is_hooked, modules)),
    }
    if not isinstance(unet, UNetMotionModel):  # where it stands under the same names and changes no value
        has["split inference"] = any(isinstance(module, SplitInferenceModule) for module in modules)
    return " and ".join(name for name, there in has.items() if there)


def _is_hooked(module: torch.nn.Module) -> bool:
    """Whether accelerate or diffusers offloads a module or casts its weights."""
    return hasattr(module, "_hf_hook") or bool(getattr(getattr(module, "_diffusers_hook", None), "hooks", None))
