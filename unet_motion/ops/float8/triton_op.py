"""The rounding to float8 as one operator of torch, which Triton runs."""

from __future__ import annotations

import torch
from torch import Tensor, library

from ..dispatch import kernel
from ..layout import not_rows

FLOAT8 = torch.float8_e4m3fn

ROUNDED = kernel("float8", fits=not_rows, width=4)


@library.custom_op("unet_motion::float8", mutates_args=())
def rounded_kernel(x: Tensor) -> Tensor:
    """(..., C), rows of dense channels at one distance."""
    from .triton import launch

    return launch(x).view(FLOAT8)


@rounded_kernel.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=FLOAT8)
