"""Motion modules on a MODEL of ComfyUI."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....unet_motion.config.convert import motion_arguments
from ....unet_motion.config.unet import NORM_SCOPES, UNetMotionConfig
from ....unet_motion.formats import MotionModule, PositionOptions, load_motion_module
from ....unet_motion.formats.motion_weights import with_positions
from ....unet_motion.model.inflate import widen_conv_in
from .build import FP8, POSITIONS, motion_base_model, original_weights, sampling_settings, with_model
from .ldm_view import LDMView
from .noise_schedules import AUTO, BY_SETTINGS, KEEP, MODEL_SAMPLING, set_schedule
from .unet_config import check_fits, from_comfy

# The schedule of every published SD1.5 motion module; diffusers calls it "linear".
MOTION_SCHEDULE = "sqrt_linear"
INPUT = "input_blocks.0.0.weight"


def norm_scopes(norm_scope: str, motion: MotionModule) -> dict[str, str]:
    """The core's two norm scopes for a node's choice; `auto` is what the motion module was trained with."""
    resnet, temporal = motion.norm_scopes if norm_scope == AUTO else NORM_SCOPES[norm_scope]
    return {"resnet_norm_scope": resnet, "motion_norm_scope": temporal}


def trained_sampling(motion: MotionModule | None, beta_schedule: str) -> dict[str, Any]:
    """ComfyUI's sampling settings for a node's choice; `auto` is what the motion module was trained with.

    Schedules that no settings describe are set by :func:`set_schedule`.
    """
    if beta_schedule in BY_SETTINGS:
        return sampling_settings(*BY_SETTINGS[beta_schedule])
    if beta_schedule == KEEP:
        return {}
    known = None if motion is None else motion.published
    if beta_schedule != AUTO or known is None:
        return sampling_settings(MOTION_SCHEDULE)
    return sampling_settings(known.comfy_schedule, known.beta_start, known.beta_end)


def motion_weights(motion: MotionModule, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights under the names that they have in a view of a UNet (`motion.`), in the dtype of a MODEL."""
    # 8-bit weights need the scaling that checkpoints of that kind carry: motion modules keep their own precision.
    own = {key: tensor for key, tensor in motion.whole_state().items() if not key.startswith("conv_in.")}
    return {
        f"motion.{key}": tensor if dtype in FP8 or key.endswith(POSITIONS) else tensor.to(dtype)
        for key, tensor in own.items()
    }


def _widen_input(unet: dict[str, Any], spatial: dict[str, Tensor], adapted: Tensor, name: str) -> None:
    """Give the input layer the channels that come with the motion modules (PIA); the latent's own stay the base's."""
    latent, own = unet["out_channels"], spatial[INPUT]
    if own.shape[1] != latent or own.shape[0] != adapted.shape[0]:
        raise ValueError(f"{name} brings an input layer for plain models, but `model` reads {own.shape[1]} channels.")
    unet["in_channels"] = adapted.shape[1]
    spatial[INPUT] = widen_conv_in(own, adapted, latent)


def _fill(view: LDMView, weights: dict[str, Tensor], name: str) -> None:
    missing, unexpected = view.load_state_dict(weights, strict=False, assign=True)
    if missing or unexpected:
        kinds = {"missing": missing, "unknown": unexpected}
        parts = [f"{len(keys)} {word}, such as {keys[0]}" for word, keys in kinds.items() if keys]
        raise ValueError(f"{name} and `model` do not make one UNet: weights are {' and '.join(parts)}.")
    view.requires_grad_(False)


def apply_motion_module(model: Any, motion: MotionModule, norm_scope: str = AUTO, beta_schedule: str = AUTO) -> Any:
    """A MODEL with motion modules, over the weights of the given one; its LoRAs, patches and options stay.

    Args:
        model: ComfyUI's ModelPatcher of an SD1.5 or SDXL UNet.
        norm_scope: `auto` or a key of NORM_SCOPES.
        beta_schedule: one of `BETA_SCHEDULES`; `auto` and `keep` keep a schedule that a node set on the MODEL, any
            other choice replaces it.

    Raises:
        ValueError: neither an SD1.5 nor an SDXL model, or a motion module of another shape.
    """
    base = model.model
    unet = from_comfy(base.model_config.unet_config)
    name = motion.path.name
    check_fits(motion.config, unet, name)
    weights = original_weights(model)
    spatial = {key: tensor for key, tensor in weights.items() if not key.startswith("motion.")}
    if motion.config.conv_in_channels:
        _widen_input(unet, spatial, motion.state_dict["conv_in.weight"], name)
    config = UNetMotionConfig(**unet, **motion_arguments(motion.config), **norm_scopes(norm_scope, motion))
    new = motion_base_model(base, config, trained_sampling(motion, beta_schedule))
    _fill(new.diffusion_model, {**spatial, **motion_weights(motion, base.get_dtype())}, name)
    new.diffusion_model.motion_kind = motion.published
    clone = with_model(model, new)
    if beta_schedule not in (AUTO, KEEP):
        clone.object_patches.pop(MODEL_SAMPLING, None)
    set_schedule(clone, beta_schedule)
    clone.cached_patcher_init = None
    if getattr(model, "cached_patcher_init", None) is not None and motion.is_as_in_file:
        clone.cached_patcher_init = (
            _reload,
            (model.cached_patcher_init, motion.path, norm_scope, beta_schedule, motion.positions),
        )
    return clone


def _reload(
    base_init: tuple, path: Any, norm_scope: str, beta_schedule: str, positions: PositionOptions,
    disable_dynamic: bool = False,
) -> Any:  # fmt: skip
    """The MODEL once more from its files; ComfyUI asks for it where it needs weights of their own."""
    load, arguments, *index = base_init
    loaded = load(*arguments, disable_dynamic=disable_dynamic) if disable_dynamic else load(*arguments)
    model = loaded[index[0]] if index else loaded
    return apply_motion_module(model, with_positions(load_motion_module(path), positions), norm_scope, beta_schedule)
