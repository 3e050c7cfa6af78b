"""value * gelu(gate) of a doubled projection (Shazeer, 2020, https://arxiv.org/abs/2002.05202), and with that."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import may_be_read, overwritable
from ..linear.cpu import linear
from ..mode import wanted
from .gradient import GatedProduct
from .product import is_measured
from .product.triton_op import GEGLU_PRODUCT, geglu_product_kernel
from .triton_op import GEGLU, geglu_kernel


def geglu_layer(layer: nn.Linear, x: Tensor) -> Tensor:
    """:func:`geglu` of ``layer(x)``, x (..., C), in one launch where that was found to be faster."""
    if wanted() and may_be_read(layer, nn.Linear, x) and is_measured(x, layer.weight):
        return geglu_product(x, layer.weight, layer.bias)
    return geglu(linear(layer, x), inplace=overwritable(layer))


def geglu_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`geglu` of a linear layer's product, which no memory holds where the kernel runs: it is rounded once.

    Args:
        x: (..., C), float16, bfloat16 or float32; without a kernel any float dtype.
        weight, bias: (2 * H, C) and (2 * H,) in x's dtype.

    Returns:
        (..., H) in x's dtype; the product is summed and gated in float32.
    """
    if wanted() and GEGLU_PRODUCT.takes(x, weight, bias):
        return geglu_product_kernel(x, weight, bias)
    return geglu(F.linear(x, weight, bias))


def geglu_product_eager(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The plain twin."""
    return geglu_eager(F.linear(x, weight, bias))


def geglu(x: Tensor, inplace: bool = False) -> Tensor:
    """The first half of the channels times the exact gelu of the second, computed in float32.

    Args:
        x: (..., 2 * H), float16, bfloat16 or float32; without a kernel any float dtype, in which it then computes.
        inplace: x belongs to the caller and may be overwritten; see :func:`unet_motion.ops.layer.overwritable`.

    Returns:
        (..., H) in x's dtype.
    """
    if wanted() and GEGLU.takes(x):
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
