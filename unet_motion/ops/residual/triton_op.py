"""The residual sum's Triton kernel as an operator of torch, and what it takes."""

from __future__ import annotations

from torch import Tensor, library

from ..dispatch import kernel
from ..layout import not_rows


def _constraint(hidden: Tensor, skip: Tensor, bias: Tensor) -> str | None:
    if skip.shape != hidden.shape or skip.dtype != hidden.dtype:
        return "the summands differ in shape or dtype"
    pixels = (t.permute(0, 2, 3, 1) for t in (hidden, skip))
    return next((f"in channels-last memory {reason}" for t in pixels if (reason := not_rows(t))), None)


RESIDUAL_SUM = kernel("residual_sum", fits=_constraint)


@library.custom_op("unet_motion::residual_sum", mutates_args=())
def residual_sum_kernel(hidden: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
    """(N, C, H, W) with channels last in memory, pixels at one distance, and (C,); summed in float32."""
    from .triton import launch

    return launch(hidden, skip, bias)


@residual_sum_kernel.register_fake
def _(hidden: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
    n, c, h, w = hidden.shape
    return hidden.new_empty(n, h, w, c).permute(0, 3, 1, 2)
