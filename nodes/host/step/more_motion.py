"""Further motion modules, in a MODEL's settings and in a call of the UNet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ....unet_motion.forward.more_motion import MoreMotion
from .amounts import VaryingAmount, motion_amounts
from .window_devices import DEVICE


@dataclass(frozen=True, eq=False)
class VaryingMotion:
    """A setting of a MODEL; see :class:`unet_motion.MoreMotion`.

    Attributes:
        copies: the adapters of the devices that ComfyUI copied the MODEL to, all of which have this one setting.
    """

    adapter: nn.Module
    amount: VaryingAmount
    motion_norm_scope: str
    copies: dict[torch.device, nn.Module] = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict) -> VaryingMotion:
        return self

    def for_batch(self, x: Tensor, frames: int, transformer_options: dict) -> dict[str, Any]:
        """What one call needs; see :meth:`VaryingAmount.for_batch`."""
        amount = self.amount.for_batch(x, frames, transformer_options)
        adapter = self.copies.get(transformer_options.get(DEVICE), self.adapter)
        return {"adapter": adapter, "amount": amount, "scope": self.motion_norm_scope}


def more_motion(found: list[dict[str, Any]], timesteps: Tensor) -> list[MoreMotion]:
    """The core's further motion modules of a call at its timesteps."""
    return [
        MoreMotion(more["adapter"], motion_amounts([more["amount"]], timesteps), more["scope"]) for more in found
    ]
