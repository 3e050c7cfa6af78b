"""value * gelu(gate) of a doubled projection (Shazeer, 2020, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pairs import Make, Pair, size_of
from ..proof import wanted
from .gradient import GatedProduct
from .triton_op import GEGLU, geglu_kernel


def geglu(x: Tensor, inplace: bool = False) -> Tensor:
    """The first half of the channels times the exact gelu of the second, computed in float32.

    Args:
        x: (..., 2 * H), float16, bfloat16 or float32; without a kernel any float dtype, in which it then computes.
        inplace: x belongs to the caller and may be overwritten; see :func:`unet_motion.ops.layer.overwritable`.

    Returns:
        (..., H) in x's dtype.
    """
    if wanted(GEGLU, x) and GEGLU.takes(x):
        return geglu_kernel(x)
    if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return GatedProduct.apply(x)
    return geglu_inplace(x) if inplace else geglu_eager(x)


def geglu_eager(x: Tensor) -> Tensor:
    """The plain twin."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def geglu_inplace(x: Tensor) -> Tensor:
    """The plain twin written over x: at this width the tensors are the largest of the network."""
    value, gate = x.chunk(2, dim=-1)
    return value.mul_(torch.ops.aten.gelu_(gate))


@GEGLU.pair("GEGLU")
def _pair(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    x = make(frames, clips * side * side, 8 * channels)
    return Pair(lambda: geglu_kernel(x), lambda: geglu_eager(x), (x,), size_of(x) * 3 // 2)
