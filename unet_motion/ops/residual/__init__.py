"""The sum at the end of a resnet, and the bias of the convolution before it."""

from __future__ import annotations

from torch import Tensor

from ..layer import add_into
from ..pairs import Make, Pair, size_of
from ..proof import wanted
from .triton_op import RESIDUAL_SUM, residual_sum_kernel


def add_residual(hidden: Tensor, skip: Tensor, bias: Tensor, inplace: bool) -> Tensor:
    """hidden + skip + bias, (N, C, H, W) each and (C,); hidden may be overwritten where it is ``inplace``."""
    if wanted(RESIDUAL_SUM, hidden) and RESIDUAL_SUM.takes(hidden, skip, bias):
        return residual_sum_kernel(hidden, skip, bias)
    return add_into(add_into(hidden, bias[:, None, None], inplace), skip, inplace)


def residual_sum_eager(hidden: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
    """The plain twin."""
    return hidden + bias[:, None, None] + skip


@RESIDUAL_SUM.pair("residual sum and bias")
def _pair(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    hidden, skip = (make(clips * frames, side, side, channels).permute(0, 3, 1, 2) for _ in range(2))
    bias = make(channels)
    return Pair(
        lambda: residual_sum_kernel(hidden, skip, bias), lambda: residual_sum_eager(hidden, skip, bias),
        (hidden, skip, bias), 3 * size_of(hidden),
    )  # fmt: skip
