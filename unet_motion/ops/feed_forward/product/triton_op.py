"""The product with GEGLU inside as an operator of torch, and what it takes."""

from __future__ import annotations

from torch import Tensor, library

from ...dispatch import kernel
from ...layer import in_autocast
from ...layout import not_rows, too_many_rows
from . import NAME


def _constraint(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if in_autocast(x.device):
        return "autocast chooses dtypes by itself"
    if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        return "input, weights and bias differ in dtype"
    if weight.dim() != 2 or weight.shape[1] != x.shape[-1] or len(weight) % 2:
        return "the weights are not an even number of rows as wide as the input"
    if bias is not None and bias.shape != weight.shape[:1]:
        return "the bias is not one of each row of weights"
    return too_many_rows(x) or not_rows(x) or ("the weights are no rows of numbers" if not_rows(weight) else None)


GEGLU_PRODUCT = kernel(NAME, fits=_constraint, measured=True, width=8)


@library.custom_op("unet_motion::geglu_product", mutates_args=())
def geglu_product_kernel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., C), weight (2 * H, C), bias (2 * H,) -> (..., H): rows of dense channels at one distance each."""
    from .triton import launch

    return launch(x, weight, bias)


@geglu_product_kernel.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight) // 2)
