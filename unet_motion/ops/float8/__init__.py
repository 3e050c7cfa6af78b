"""Rounding to float8_e4m3fn: three bits behind the first, none finer than 2**-9, 448 at most."""

from __future__ import annotations

import torch
from torch import Tensor, library

from ..dispatch import kernel
from ..layout import not_rows

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest float8_e4m3fn."""

_fits = kernel("float8", fits=not_rows)


def rounded(x: Tensor) -> Tensor:
    """x (..., C) in float8, half to even, what is too large at the largest number; NaN stays."""
    return rounded_kernel(x) if _fits.runs(x) else rounded_eager(x)


def rounded_eager(x: Tensor) -> Tensor:
    """The plain twin: two passes, as torch's cast makes NaN of what is too large."""
    return x.clamp(-LARGEST, LARGEST).to(FLOAT8)


@library.custom_op("unet_motion::float8", mutates_args=())
def rounded_kernel(x: Tensor) -> Tensor:
    """(..., C), rows of dense channels at one distance."""
    from .triton import launch

    return launch(x).view(FLOAT8)


@rounded_kernel.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=FLOAT8)
