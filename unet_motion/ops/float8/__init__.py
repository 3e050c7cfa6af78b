"""Rounding to float8_e4m3fn: three bits behind the first, none finer than 2**-9, 448 at most."""

from __future__ import annotations

from torch import Tensor

from ..mode import wanted
from .triton_op import FLOAT8, ROUNDED, rounded_kernel

LARGEST = 448.0
"""The largest float8_e4m3fn."""


def rounded(x: Tensor) -> Tensor:
    """x (..., C) in float8, half to even, what is too large at the largest number; NaN stays."""
    return rounded_kernel(x) if wanted() and ROUNDED.takes(x) else rounded_eager(x)


def rounded_eager(x: Tensor) -> Tensor:
    """The plain twin: two passes, as torch's cast makes NaN of what is too large."""
    return x.clamp(-LARGEST, LARGEST).to(FLOAT8)
