"""Convolutions of channels-last activations: torch's own, and what a CPU computes faster beside it.

The fast ways stand in `cpu.py` (products and planes) and `winograd.py`; `choose_algorithm` picks one for each call.
`cuda.py` saves passes on a graphics card, and `weights.py` lays the weights out for one.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..linear.float8 import is_float8
from . import cpu, cuda


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)``, x (N, C, H, W) in channels-last memory."""
    if is_float8(conv):
        return conv(x)
    if cuda.is_product(conv, x):
        return cuda.as_product(conv, x)
    algorithm = cpu.choose_algorithm(conv, x)
    return convolve_eager(conv, x) if algorithm is None else cpu.convolve(conv, x, algorithm)


def convolve_leaving_bias(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """``conv(x)`` without the bias where the caller adds that (C,) for less, beside it; else ``conv(x)`` and None."""
    if cuda.leaves_bias(conv, x):
        return cuda.without_bias(conv, x), conv.bias
    return convolve(conv, x), None


def convolve_eager(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The plain twin: the layer as it is."""
    return conv(x)


def convolve_upsampled(conv: nn.Conv2d, x: Tensor, size: tuple[int, int] | None) -> Tensor:
    """``conv`` of x (N, C, H, W) enlarged (nearest) to ``size``, by default to twice its own."""
    twice = (2 * x.shape[2], 2 * x.shape[3])
    if size in (None, twice) and cpu.upsamples_in_phases(conv, x):
        return cpu.upsample_in_phases(conv, x)
    return convolve(conv, F.interpolate(x, size=size or twice, mode="nearest"))
