"""value * gelu(gate) of a doubled projection (Shazeer, 2020, https://arxiv.org/abs/2002.05202), and with that."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import may_be_read, overwritable
from ..linear.cpu import linear
from ..pairs import Make, Pair, size_of
from ..proof import wanted
from .gradient import GatedProduct
from .product import sizes_of
from .product.triton_op import GEGLU_PRODUCT, geglu_product_kernel
from .triton_op import GEGLU, geglu_kernel


def geglu_layer(layer: nn.Linear, x: Tensor) -> Tensor:
    """:func:`geglu` of ``layer(x)``, x (..., C), in one launch where that was found to be faster."""
    if may_be_read(layer, nn.Linear, x) and wanted(GEGLU_PRODUCT, x, **sizes_of(x, layer.weight)):
        if GEGLU_PRODUCT.takes(x, layer.weight, layer.bias):
            return geglu_product_kernel(x, layer.weight, layer.bias)
    return geglu(linear(layer, x), inplace=overwritable(layer))


def geglu_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`geglu` of a linear layer's product, which no memory holds where the kernel runs: it is rounded once.

    Args:
        x: (..., C), float16, bfloat16 or float32; without a kernel any float dtype.
        weight, bias: (2 * H, C) and (2 * H,) in x's dtype.

    Returns:
        (..., H) in x's dtype; the product is summed and gated in float32.

    Raises:
        ValueError: the weights are no two halves.
    """
    _check_halves("weight", len(weight), "rows")
    if wanted(GEGLU_PRODUCT, x) and GEGLU_PRODUCT.takes(x, weight, bias):
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

    Raises:
        ValueError: the channels are no two halves.
    """
    _check_halves("x", x.shape[-1], "channels")
    if wanted(GEGLU, x) and GEGLU.takes(x):
        return geglu_kernel(x)
    if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return GatedProduct.apply(x)
    return geglu_inplace(x) if inplace else geglu_eager(x)


def _check_halves(name: str, count: int, of: str) -> None:
    if count % 2:
        raise ValueError(f"`{name}` has {count} {of}, expected an even number: values, and as many gates.")


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


@GEGLU_PRODUCT.pair("GEGLU inside the product")
def _product_pair(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    """A product of about 1's size, by a power of two, so that in float64 the weights are the same."""
    x, weight, bias = make(frames, clips * side * side, channels), make(8 * channels, channels), make(8 * channels)
    weight.mul_(2.0 ** -(channels.bit_length() // 2))
    given, written = (x, weight, bias), 4 * x.numel() * x.element_size()
    return Pair(
        lambda: geglu_product_kernel(*given), lambda: geglu_product_eager(*given), given, size_of(*given) + written,
        apart=lambda: geglu_kernel(F.linear(*given)), work=16.0 * x.numel() * channels,
    )  # fmt: skip
