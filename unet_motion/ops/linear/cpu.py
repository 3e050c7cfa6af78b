"""A linear layer in bfloat16 on a CPU as a 1x1 convolution, which adds the bias inside the product.

torch's product first copies the bias into every row of its result: where rows are many and their weights few, a third
of its time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cpu_vectors import BFLOAT16
from ..layer import is_hooked, is_own

LEAST_ROWS, MOST_WEIGHTS = 1024, 640 * 5120
"""Rows from which, and weights up to which a convolution's copy of the weights takes less than the bias's."""


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer(x)``, x (..., C)."""
    return as_convolution(x, layer.weight, layer.bias) if serves(layer, x) else layer(x)


def serves(layer: nn.Linear, x: Tensor) -> bool:
    """Whether `as_convolution` computes this layer of x (..., C) faster than torch's product."""
    if not BFLOAT16 or x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.compiler.is_compiling():
        return False
    if not is_own(layer, nn.Linear) or is_hooked(layer):
        return False
    if layer.bias is None or torch.is_grad_enabled() or layer.weight.dtype != x.dtype or not x.is_contiguous():
        return False
    return x.numel() >= LEAST_ROWS * x.shape[-1] and layer.weight.numel() <= MOST_WEIGHTS


def as_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (..., C) times weight (O, C), plus bias (O,)."""
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
    return out.reshape(*x.shape[:-1], weight.shape[0])
