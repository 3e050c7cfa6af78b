"""How strongly the motion modules of a MODEL act."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...unet_motion.forward.motion_amount import check_block
from .step.amounts import VaryingAmount
from .step.settings import settings, with_settings
from .step.varying import Varying


def with_amount(model: Any, scale: Varying, effect: Varying, blocks: str, mask: Tensor | None) -> Any:
    """A clone of a MODEL whose motion modules act more or less; what was set before stays and is multiplied.

    Args:
        blocks: names between commas, none for all.
        mask: see :class:`VaryingAmount`; one picture (H, W) will do.

    Raises:
        ValueError: no block of the MODEL, or a mask that is none.
    """
    names = tuple(name.strip() for name in blocks.replace("\n", ",").split(",") if name.strip())
    for name in names:
        check_block(name, model.model.diffusion_model.core.motion_modules_at)
    if mask is not None:
        if mask.dim() not in (2, 3) or not mask.isfinite().all():
            raise ValueError(f"`mask` has shape {tuple(mask.shape)}, expected (frames, height, width), all finite.")
        mask = mask.reshape(-1, *mask.shape[-2:])
    before = settings(model.model_options["transformer_options"]).get("motion_amounts", [])
    return with_settings(model, motion_amounts=[*before, VaryingAmount(scale, effect, names, mask)])
