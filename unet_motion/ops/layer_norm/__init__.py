"""Layer norm (Ba et al., 2016, https://arxiv.org/abs/1607.06450) with the residual before it and positions behind it.

One pass reads the tokens and what is added to them, and writes the sum, which goes on as the residual stream, and the
normalised sum plus a row of the position table.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, library, nn

from ..dispatch import kernel, wanted
from ..layer import add_into, is_hooked, overwritable, weights_of
from ..layout import not_rows

MOST_CHANNELS = 8192

MOST_ROWS = 2**31 - 2**16
"""Rows that 32 bits count, with those of the last program behind them."""


def _constraint(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_emb: Tensor | None, residual: Tensor | None,
    ahead: Tensor | None = None,
) -> str | None:  # fmt: skip
    if x.numel() > MOST_ROWS * x.shape[-1]:
        return f"{x.numel() // x.shape[-1]} rows are more than {MOST_ROWS}"
    if x.shape[-1] > MOST_CHANNELS:
        return f"{x.shape[-1]} channels are more than {MOST_CHANNELS}"
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        return "the residual differs in shape or dtype"
    if pos_emb is not None and (x.dim() < 3 or pos_emb.shape != (x.shape[-3], x.shape[-1])):
        return "the position rows are not one of each frame"
    return next((reason for t in (x, residual, pos_emb) if t is not None and (reason := not_rows(t))), None)


_fits = kernel("layer_norm", fits=_constraint)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, pos_emb: Tensor | None = None,
    residual: Tensor | None = None, ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The sum x + residual, and its norm over the channels, plus a row of each frame.

    Args:
        x, residual: (..., C); with pos_emb (..., F, P, C), F frames of P pixels. float16, bfloat16 or float32; with no
            residual the sum is x itself.
        weight, bias: (C,).
        pos_emb: (F, C), added behind the norm.
        ahead: (C,), added to the sum that is given back, and not to what is normalised; goes with a residual.

    Returns:
        sum, normalised: each of x's shape and dtype; statistics in float32.
    """
    if not _fits.runs(x, weight, bias, pos_emb, residual, ahead):
        return layer_norm_eager(x, weight, bias, eps, pos_emb, residual, ahead)
    if residual is None:
        return x, layer_norm_kernel(x, weight, bias, pos_emb, eps)
    return add_layer_norm_kernel(x, residual, weight, bias, pos_emb, eps, ahead)


def layer_norm_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, pos_emb: Tensor | None = None,
    residual: Tensor | None = None, ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The plain twin."""
    if residual is not None:
        x = x + residual
    out = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    total = x if ahead is None else x + ahead
    return total, out if pos_emb is None else out + pos_emb[:, None]


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


def add_layer_norm(
    norm: nn.LayerNorm, tokens: Tensor, added: Tensor | None = None, pos_emb: Tensor | None = None,
    inplace: bool = False, ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """tokens + added, and the layer norm of it; pos_emb (F, 1, C) is added to the norm of tokens (B, F, P, C).

    The sum may be written into tokens that belong to the caller (``inplace``). ``ahead`` (C,) is what comes next on the
    residual stream: it is in the sum that is given back, which is a new tensor then, but not in the norm.
    """
    if wanted() and not is_hooked(norm):
        table = None if pos_emb is None else pos_emb[:, 0]
        return layer_norm(tokens, *weights_of(norm, tokens), norm.eps, table, added, ahead)
    if added is not None:
        tokens = add_into(tokens, added, inplace)
    out = norm(tokens)
    out = out if pos_emb is None else add_into(out, pos_emb, overwritable(norm))
    return (tokens if ahead is None else tokens + ahead), out
