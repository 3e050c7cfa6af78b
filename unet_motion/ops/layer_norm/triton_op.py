"""Layer norm's Triton kernel as operators of torch, and what it takes."""

from __future__ import annotations

from torch import Tensor, library

from ..dispatch import kernel
from ..layout import not_rows, too_many_rows

MOST_CHANNELS = 8192


def _constraint(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_emb: Tensor | None, residual: Tensor | None,
    ahead: Tensor | None = None,
) -> str | None:  # fmt: skip
    if x.shape[-1] > MOST_CHANNELS:
        return f"{x.shape[-1]} channels are more than {MOST_CHANNELS}"
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        return "the residual differs in shape or dtype"
    if pos_emb is not None and (x.dim() < 3 or pos_emb.shape != (x.shape[-3], x.shape[-1])):
        return "the position rows are not one of each frame"
    if (reason := too_many_rows(x)) is not None:
        return reason
    return next((reason for t in (x, residual, pos_emb) if t is not None and (reason := not_rows(t))), None)


LAYER_NORM = kernel("layer_norm", fits=_constraint)


@library.custom_op("unet_motion::layer_norm", mutates_args=())
def layer_norm_kernel(x: Tensor, weight: Tensor, bias: Tensor | None, pos_emb: Tensor | None, eps: float) -> Tensor:
    from .triton import launch

    return launch(x, None, weight, bias, pos_emb, eps)[1]


@layer_norm_kernel.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, pos_emb: Tensor | None, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@library.custom_op("unet_motion::add_layer_norm", mutates_args=())
def add_layer_norm_kernel(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, pos_emb: Tensor | None, eps: float,
    ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from .triton import launch

    return launch(x, residual, weight, bias, pos_emb, eps, ahead)


@add_layer_norm_kernel.register_fake
def _(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, pos_emb: Tensor | None, eps: float,
    ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return x.new_empty(x.shape), x.new_empty(x.shape)
