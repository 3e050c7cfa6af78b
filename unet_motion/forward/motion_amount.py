"""How strongly motion modules act in a call: over the frames, over the pixels, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..values import is_finite, quoted

Amount = float | Tensor


@dataclass(frozen=True, eq=False)
class MotionAmount:
    """What motion modules do in a call, beside what they were trained to do; several multiply.

    Args:
        scale: factor of the keys of attention over the frames, as AnimateDiff-Evolved's motion scale: above 1 each
            frame looks more at those that are like it, and movement grows; below 1 frames come nearer to their mean.
        effect: share of what a module adds to its input: 0 is none, and 1 what it was trained to add.
        blocks: for whose modules, such as ``up_blocks``, ``down_blocks.0`` or
            ``up_blocks.1.motion_modules.0``; none: for all.

    Both are numbers, or tensors of one, (F,), (B, F), (F, H, W) or (B, F, H, W) numbers, B being clips. Maps (H, W) are
    of any size and are resized to a module's, bilinearly.

    Raises:
        ValueError: a number that is not finite, or a tensor of another number of dimensions.
    """

    scale: Amount = 1.0
    effect: Amount = 1.0
    blocks: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("scale", "effect"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                if value.numel() != 1 and not 1 <= value.dim() <= 4:
                    raise ValueError(f"`{name}` has shape {tuple(value.shape)}, expected {FORMS}.")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
                raise ValueError(f"`{name}` is {quoted(value)}, expected a finite number or a tensor.")

    def acts_on(self, path: str) -> bool:
        """Whether it is for the motion module at a path."""
        return not self.blocks or any(path == block or path.startswith(f"{block}.") for block in self.blocks)


FORMS = "one number, (frames,), (clips, frames), (frames, height, width) or (clips, frames, height, width)"


class Factor(NamedTuple):
    """A product of numbers and of tensors (1 or B, F, 1, 1) or (1 or B, F, H, W)."""

    number: float = 1.0
    tensors: tuple[Tensor, ...] = ()

    def times(self, amount: Amount) -> Factor:
        if isinstance(amount, Tensor):
            return Factor(self.number, (*self.tensors, amount))
        return Factor(self.number * amount, self.tensors)

    def over(self, height: int, width: int) -> Amount | None:
        """As a number, or for the tokens of a module (1 or B, F, 1 or H*W, 1); None where it is 1."""
        if not self.tensors:
            return None if self.number == 1 else self.number
        found: Amount = self.number
        for tensor in self.tensors:
            if tensor.shape[-2:] != (1, 1):
                # Of what is not 1, so that a map of ones stays one to the bit.
                tensor = F.interpolate(tensor - 1, size=(height, width), mode="bilinear") + 1
            found = found * tensor.flatten(2).unsqueeze(-1)
        return found


class Acting(NamedTuple):
    """The factors of one motion module in a call."""

    scale: Factor = Factor()
    effect: Factor = Factor()


def acting_amounts(
    amounts: Iterable[MotionAmount], batch: int, frames: int, modules: Sequence[tuple[str, nn.Module]], like: Tensor
) -> Mapping[nn.Module, Acting]:
    """What holds for each motion module in a call.

    Args:
        batch, frames: B and F.
        modules: path and module, of all motion modules.
        like: on the device of the call.

    Raises:
        ValueError: a tensor of another shape, or a block that has no motion modules.
    """
    found: dict[nn.Module, Acting] = {}
    for amount in amounts:
        for block in amount.blocks:
            check_block(block, modules)
        scale, effect = (_placed(name, getattr(amount, name), batch, frames, like) for name in ("scale", "effect"))
        for path, module in modules:
            if amount.acts_on(path):
                # Written out: not every torch that is supported compiles a default that is a tuple itself.
                before = found.get(module) or Acting(Factor(), Factor())
                found[module] = Acting(before.scale.times(scale), before.effect.times(effect))
    return found


def check_block(block: str, modules: Sequence[tuple[str, nn.Module]]) -> None:
    """Raise ValueError for the name of a block without motion modules, which are given with their paths."""
    if not any(path == block or path.startswith(f"{block}.") for path, _ in modules):
        known = modules[0][0].partition(".motion_modules")[0] if modules else "none"
        raise ValueError(
            f"`blocks` has {quoted(block)}, where this UNet has no motion, expected names such as {known}."
        )


def _placed(name: str, amount: Amount, batch: int, frames: int, like: Tensor) -> Amount:
    """A tensor as (1 or B, F or 1, H, W), not in half precision, where 1.05 is 1.0498."""
    if not isinstance(amount, Tensor):
        return float(amount)
    shape = amount.shape  # compared by ==: under torch.compile sizes may be symbols
    if amount.numel() == 1:
        amount = amount.reshape(1, 1, 1, 1)
    elif len(shape) == 1 and shape[0] == frames or len(shape) == 2 and shape[0] == batch and shape[1] == frames:
        amount = amount.reshape(-1, frames, 1, 1)
    elif len(shape) == 3 and shape[0] == frames:
        amount = amount[None]
    elif not (len(shape) == 4 and shape[0] == batch and shape[1] == frames):
        raise ValueError(
            f"`{name}` has shape {tuple(shape)}, expected {FORMS}, where there are {frames} frames and {batch} clips."
        )
    return amount.to(like.device, torch.promote_types(like.dtype, torch.float32))
