"""Position tables made longer, shorter, finer, or begun later."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..values import quoted


@dataclass(frozen=True)
class PositionOptions:
    """Changes of a position table of L rows, made in this order; 0 leaves a step out.

    Args:
        stretch: interpolate to L + ``stretch`` rows: slower motion, longer clips.
        skip: drop the first rows.
        cap: keep at most so many rows; with ``skip`` a window of the table.
        interpolate: interpolate what is left to so many rows.
        skip_after: drop the first rows of that.

    Raises:
        ValueError: a negative number.
    """

    stretch: int = 0
    skip: int = 0
    cap: int = 0
    interpolate: int = 0
    skip_after: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"`{field.name}` is {quoted(value)}, expected a whole number of at least 0.")

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in dataclasses.fields(self))


UNCHANGED = PositionOptions()


def interpolate_rows(table: Tensor, rows: int) -> Tensor:
    """A table (1, L, C) at ``rows`` places that are spread evenly over its rows' intervals, linearly between rows."""
    fine = F.interpolate(table.double().mT, size=rows, mode="linear", align_corners=False)
    return fine.mT.to(table.dtype).contiguous()


def adjust_table(table: Tensor, options: PositionOptions) -> Tensor:
    """A table (1, L, C) changed.

    Raises:
        ValueError: no row is left.
    """
    if options.stretch:
        table = interpolate_rows(table, table.shape[1] + options.stretch)
    table = _skipped(table, "skip", options.skip)
    if options.cap:
        table = table[:, : options.cap]
    if options.interpolate:
        table = interpolate_rows(table, options.interpolate)
    return _skipped(table, "skip_after", options.skip_after).contiguous()


def _skipped(table: Tensor, name: str, count: int) -> Tensor:
    if count >= table.shape[1]:
        raise ValueError(f"`{name}` is {count}, expected less than the {table.shape[1]} rows of the position table.")
    return table[:, count:]
