"""How strongly motion modules act, in a MODEL's settings and in a call of the UNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....unet_motion.forward.motion_amount import MotionAmount
from .varying import Varying, at_step, frame_indices

PARTS = ("scale", "effect")


@dataclass(frozen=True, eq=False)
class VaryingAmount:
    """A setting of a MODEL; see :class:`unet_motion.MotionAmount`.

    Attributes:
        mask: (1 or frames, H, W), 1 where the values hold and 0 where modules act as they were trained, or None.
    """

    scale: Varying
    effect: Varying
    blocks: tuple[str, ...] = ()
    mask: Tensor | None = None

    def __deepcopy__(self, memo: dict) -> VaryingAmount:
        return self

    def for_batch(self, x: Tensor, frames: int, transformer_options: dict) -> dict[str, Any]:
        """What one call needs, on the device of x: numbers, or (clips of all conds, frames), without the steps."""
        indices, total = frame_indices(x, frames, transformer_options)
        copies = x.shape[0] // len(indices)
        made: dict[str, Any] = {"blocks": list(self.blocks), "mask": None}
        if self.mask is not None:
            mask = self._mask_of(indices, total)
            made["mask"] = mask.repeat(copies, 1, 1).view(-1, frames, *mask.shape[1:]).to(x.device)
        for part in PARTS:
            value: Varying = getattr(self, part)
            if value.is_constant and (self.mask is None or value.number == 1):
                made[part], made[f"{part}_steps"] = float(value.number), []
                continue
            values = value.over_frames(indices, total).repeat(copies).view(-1, frames)
            made[part], made[f"{part}_steps"] = values.to(x.device), value.step_pieces(x.device)
        return made

    def _mask_of(self, indices: list[int], total: int) -> Tensor:
        if len(self.mask) not in (1, total):
            raise ValueError(f"`mask` holds {len(self.mask)} pictures, expected 1 or {total}, one for each frame.")
        return self.mask.expand(total, -1, -1)[indices].float()


def amounts_for_batch(amounts: list, x: Tensor, frames: int, transformer_options: dict) -> list[dict[str, Any]]:
    """See :meth:`VaryingAmount.for_batch`; what was made for this call before stays."""
    return [
        amount.for_batch(x, frames, transformer_options) if isinstance(amount, VaryingAmount) else amount
        for amount in amounts
    ]


def motion_amounts(amounts: list[dict[str, Any]], timesteps: Tensor) -> list[MotionAmount]:
    """The core's amounts of a call at its timesteps."""
    found = []
    for amount in amounts:
        values = {part: at_step(amount[part], amount[f"{part}_steps"], timesteps) for part in PARTS}
        if amount["mask"] is not None:
            for part, value in values.items():
                if isinstance(value, Tensor):
                    values[part] = 1 + amount["mask"] * (value[:, :, None, None] - 1)
        found.append(MotionAmount(**values, blocks=tuple(amount["blocks"])))
    return found
