"""Further motion modules on a MODEL: they stay beside its UNet, and ComfyUI loads them together with it."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
from torch import nn

from ....unet_motion import MoreMotion, MotionAdapter
from ....unet_motion.formats import MotionModule
from ..checks import require_motion_model
from ..step.amounts import VaryingAmount
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
    dtype = model.model.get_dtype()
    config = {field: motion.config[field] for field in motion.config.field_names()}
    adapter = MotionAdapter(
        **config, operations=operations_of(model.model), weights=cast_weights, dtype=dtype, device="meta"
    )
    scope = norm_scopes(norm_scope, motion)["motion_norm_scope"]
    try:
        MoreMotion(adapter, motion_norm_scope=scope).beside(core.motion_modules_at)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    getattr(mm, "archive_model_dtypes", lambda _: None)(adapter)
    weights = {key.removeprefix("motion."): tensor for key, tensor in motion_weights(motion, dtype).items()}
    adapter.load_state_dict(weights, strict=True, assign=True)
    adapter.requires_grad_(False).eval()
    # ComfyUI writes on what it loads which device that is on; an adapter says so itself.
    held = nn.ModuleDict({"adapter": adapter})
    patcher = patcher_class(False)(held, load_device=model.load_device, offload_device=model.offload_device)
    before = settings(model.model_options["transformer_options"]).get("more_motion", [])
    made = VaryingMotion(adapter, VaryingAmount(scale, effect), scope)
    clone = with_settings(model, more_motion=[*before, made])
    clone.set_additional_models(KEY, [*clone.get_additional_models_with_key(KEY), patcher])
    return clone
