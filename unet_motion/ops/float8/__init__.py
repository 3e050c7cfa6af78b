"""Rounding to float8_e4m3fn: three bits behind the first, none finer than 2**-9, 448 at most."""

from __future__ import annotations

import torch
from torch import Tensor

from ..pairs import Make, Pair, size_of
from ..proof import wanted
from .triton_op import FLOAT8, ROUNDED, rounded_kernel

LARGEST = 448.0
"""The largest float8_e4m3fn."""


def rounded(x: Tensor) -> Tensor:
    """x (..., C) in float8, half to even, what is too large at the largest number; NaN stays."""
    return rounded_kernel(x) if wanted(ROUNDED, x) and ROUNDED.takes(x) else rounded_eager(x)


def rounded_eager(x: Tensor) -> Tensor:
    """The plain twin: two passes, as torch's cast makes NaN of what is too large."""
    return x.clamp(-LARGEST, LARGEST).to(FLOAT8)


@ROUNDED.pair("rounding to float8")
def _pair(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    """The bytes of the results, which have to be equal: in the order of the numbers, but for their sign."""
    x = make(frames, clips * side * side, 4 * channels)
    return Pair(
        lambda: rounded_kernel(x).view(torch.uint8), lambda: rounded_eager(x).view(torch.uint8), (x,),
        size_of(x) + x.numel(), equal=True,
    )  # fmt: skip
