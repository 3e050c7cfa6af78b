"""Further motion modules in a call, beside those of the UNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..config.unet import check_norm_scope
from .motion_amount import MotionAmount


@dataclass(frozen=True, eq=False)
class MoreMotion:
    """Motion modules that act beside those of the UNet: each reads what the UNet's module at its place reads, and what
    all of them add is summed up.

    Two equal ones at an effect of 0.5 therefore add what one adds.

    Args:
        adapter: their weights, as :class:`unet_motion.MotionAdapter`; of any position table, on the call's device.
        amounts: how strongly they act, as for the UNet's own; an effect of 0 saves their time.
        motion_norm_scope: ``frame`` or ``clip``, as they were trained; None is that of the call.

    `motion_loras` and `motion_amounts` of a call are for the UNet's own modules.

    Raises:
        ValueError: an unknown norm scope, or an adapter that brings more than motion modules (PIA, AnimateLCM-I2V).
    """

    adapter: nn.Module
    amounts: Sequence[MotionAmount] = ()
    motion_norm_scope: str | None = None
    modules: tuple[tuple[str, nn.Module], ...] = field(init=False, repr=False, default=())
    attentions: tuple[tuple[str, nn.Module], ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        if self.motion_norm_scope is not None:
            check_norm_scope("motion_norm_scope", self.motion_norm_scope)
        if self.adapter.conv_in is not None or self.adapter.img_encoder is not None:
            raise ValueError(
                "`adapter` brings layers for pictures beside its motion modules (PIA, AnimateLCM-I2V), expected motion "
                "modules alone: give it to the UNet, and the others here."
            )
        layers = list(self.adapter.named_modules())
        modules = tuple((path, layer) for path, layer in layers if path.rpartition(".")[0].endswith("motion_modules"))
        object.__setattr__(self, "modules", modules)
        object.__setattr__(self, "attentions", tuple((p, layer) for p, layer in layers if hasattr(layer, "processor")))

    def beside(self, own: Sequence[tuple[str, nn.Module]]) -> Mapping[nn.Module, nn.Module]:
        """The UNet's module -> the one here at the same place.

        Args:
            own: path and module, of all motion modules of the UNet.

        Raises:
            ValueError: a place where the UNet has no module, or one with other channels.
        """
        at = dict(own)
        found = {}
        for path, module in self.modules:
            if path not in at:
                raise ValueError(
                    f"`more_motion` has {path}, where this UNet has no motion module; give the UNet the motion modules "
                    "that have more places, and these others here."
                )
            norms: list[Any] = [module.norm, at[path].norm]
            here, there = (norm.num_channels for norm in norms)
            if here != there:
                raise ValueError(f"`more_motion` has {here} channels in {path}, but this UNet has {there} there.")
            found[at[path]] = module
        return found
