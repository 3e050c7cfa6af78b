"""Further motion modules on a MODEL: they stay beside its UNet, and ComfyUI loads them together with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management as mm
import comfy.patcher_extension
from torch import nn

from ....unet_motion import MoreMotion, MotionAdapter
from ....unet_motion.formats import MotionModule
from ..checks import require_motion_model
from ..step.amounts import VaryingAmount
from ..step.hooks import KEY as SETTINGS
from ..step.more_motion import VaryingMotion
from ..step.settings import settings, with_settings
from ..step.varying import Varying
from .apply import motion_weights, norm_scopes
from .build import cast_weights, operations_of, patcher_class
from .unet_config import check_fits

KEY = "unet_motion_more"


def add_motion_module(model: Any, motion: MotionModule, scale: Varying, effect: Varying, norm_scope: str) -> Any:
    """A clone of a MODEL in which motion modules act beside those that it has; they stay out of its weights.

    Args:
        scale, effect: how strongly they act.
        norm_scope: `auto` or a key of NORM_SCOPES, of which the part for motion modules holds.

    Raises:
        ValueError: a MODEL without motion modules, modules of other channels, in a block where the MODEL has none, or
            of a kind that brings more than motion (PIA, AnimateLCM-I2V).
    """
    core, name = require_motion_model(model).core, motion.path.name
    check_fits(motion.config, core.config, name)
    operations, dtype = operations_of(model.model), model.model.get_dtype()
    scope = norm_scopes(norm_scope, motion)["motion_norm_scope"]
    try:
        MoreMotion(_empty(motion, operations, dtype), motion_norm_scope=scope).beside(core.motion_modules_at)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    patcher = _loadable(motion, operations, dtype, model.load_device, model.offload_device)
    before = settings(model.model_options["transformer_options"]).get("more_motion", [])
    made = VaryingMotion(patcher.model["adapter"], VaryingAmount(scale, effect), scope)
    clone = with_settings(model, more_motion=[*before, made])
    clone.set_additional_models(KEY, [*clone.get_additional_models_with_key(KEY), patcher])
    _follow_copies(clone)
    return clone


def _loadable(
    motion: MotionModule, operations: Any, dtype: Any, load_device: Any, offload_device: Any,
    disable_dynamic: bool = False,
) -> Any:  # fmt: skip
    """The modules as ComfyUI loads models, in the layers and the dtype of a MODEL; it can ask for them once more."""
    adapter = _empty(motion, operations, dtype)
    getattr(mm, "archive_model_dtypes", lambda _: None)(adapter)
    weights = {key.removeprefix("motion."): tensor for key, tensor in motion_weights(motion, dtype).items()}
    adapter.load_state_dict(weights, strict=True, assign=True)
    adapter.requires_grad_(False).eval()
    # ComfyUI writes on what it loads which device that is on; an adapter says so itself.
    held = nn.ModuleDict({"adapter": adapter})
    patcher = patcher_class(disable_dynamic)(held, load_device=load_device, offload_device=offload_device)
    patcher.cached_patcher_init = (_loadable, (motion, operations, dtype, load_device, offload_device))
    return patcher


def _empty(motion: MotionModule, operations: Any, dtype: Any) -> MotionAdapter:
    """The modules without storage."""
    config = {field: motion.config[field] for field in motion.config.field_names()}
    return MotionAdapter(**config, operations=operations, weights=cast_weights, dtype=dtype, device="meta")


def _follow_copies(model: Any) -> None:
    """Let the settings of a MODEL find the modules of the copies that ComfyUI makes of it for other devices."""
    kinds = comfy.patcher_extension.CallbacksMP
    for kind, callback in (("ON_DEEPCLONE_MULTIGPU", _give_own), ("ON_MATCH_MULTIGPU_CLONES", _note_copies)):
        if hasattr(kinds, kind):  # older versions compute on one device
            model.remove_callbacks_with_key(getattr(kinds, kind), KEY)
            model.add_callback_with_key(getattr(kinds, kind), KEY, callback)


def _adapters(model: Any) -> list[tuple[Any, nn.Module]]:
    """What a MODEL's further modules are clones of, and the modules."""
    return [(p.clone_base_uuid, p.model["adapter"]) for p in model.get_additional_models_with_key(KEY)]


def _give_own(model: Any, copy: Any) -> None:
    """Settings of a copy of a MODEL that is used by itself: its own modules, on its device."""
    own = {id(adapter): other for (_, adapter), (_, other) in zip(_adapters(model), _adapters(copy), strict=True)}
    options = copy.model_options["transformer_options"]
    more = [replace(one, adapter=own[id(one.adapter)], copies={}) for one in settings(options)["more_motion"]]
    options[SETTINGS] = {**settings(options), "more_motion": more}


def _note_copies(model: Any, copy: Any) -> None:
    """Settings of a MODEL that computes on several devices at once: the modules of the copy for its device."""
    there = dict(_adapters(copy))
    own = {id(adapter): there[uuid] for uuid, adapter in _adapters(model)}
    for one in settings(model.model_options["transformer_options"])["more_motion"]:
        one.copies[copy.load_device] = own[id(one.adapter)]
