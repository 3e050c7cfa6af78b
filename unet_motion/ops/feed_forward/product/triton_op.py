"""The product with GEGLU inside as an operator of torch, and what it takes."""

from __future__ import annotations

from torch import Tensor, library

from ...dispatch import kernel
from ...layout import not_rows, too_many_rows
from ...tuning import is_chosen

NAME = "geglu_product"


def _constraint(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        return "input, weights and bias differ in dtype"
    if weight.dim() != 2 or weight.shape[1] != x.shape[-1] or len(weight) % 2:
        return "the weights are not an even number of rows as wide as the input"
    if bias is not None and bias.shape != weight.shape[:1]:
        return "the bias is not one of each row of weights"
    return too_many_rows(x) or not_rows(x) or ("the weights are no rows of numbers" if not_rows(weight) else None)


GEGLU_PRODUCT = kernel(NAME, fits=_constraint, measured=True)


def sizes_of(x: Tensor, weight: Tensor) -> dict[str, int]:
    """The sizes that an entry of tiles has; it stands for all numbers of rows down to half of its own."""
    rows = x.numel() // max(1, x.shape[-1])
    return {"rows": 1 << max(0, rows - 1).bit_length(), "depth": x.shape[-1], "width": len(weight) // 2}


def is_measured(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel was found to be faster than the layer and GEGLU apart on this device, at about this size."""
    return is_chosen(NAME, x.device, x.dtype, **sizes_of(x, weight))


@library.custom_op("unet_motion::geglu_product", mutates_args=())
def geglu_product_kernel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., C), weight (2 * H, C), bias (2 * H,) -> (..., H): rows of dense channels at one distance each."""
    from .triton import launch

    return launch(x, weight, bias)


@geglu_product_kernel.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight) // 2)
