"""Layer norm (Ba et al., 2016, https://arxiv.org/abs/1607.06450) with the residual before it and positions behind it.

One pass reads the tokens and what is added to them, and writes the sum, which goes on as the residual stream, and the
normalised sum plus a row of the position table.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import add_into, may_be_computed, overwritable, weights_of
from ..pairs import Make, Pair, size_of
from ..proof import wanted
from .triton_op import LAYER_NORM, add_layer_norm_kernel, layer_norm_kernel


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
    if not wanted(LAYER_NORM, x) or not LAYER_NORM.takes(x, weight, bias, pos_emb, residual, ahead):
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


def add_layer_norm(
    norm: nn.LayerNorm, tokens: Tensor, added: Tensor | None = None, pos_emb: Tensor | None = None,
    inplace: bool = False, ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """tokens + added, and the layer norm of it; pos_emb (F, 1, C) is added to the norm of tokens (B, F, P, C).

    The sum may be written into tokens that belong to the caller (``inplace``). ``ahead`` (C,) is what comes next on the
    residual stream: it is in the sum that is given back, which is a new tensor then, but not in the norm.
    """
    if wanted(LAYER_NORM, tokens) and may_be_computed(norm, nn.LayerNorm):
        table = None if pos_emb is None else pos_emb[:, 0]
        return layer_norm(tokens, *weights_of(norm, tokens), norm.eps, table, added, ahead)
    if added is not None:
        tokens = add_into(tokens, added, inplace)
    out = norm(tokens)
    out = out if pos_emb is None else add_into(out, pos_emb, overwritable(norm))
    return (tokens if ahead is None else tokens + ahead), out


@LAYER_NORM.pair("layer norm", row=False, residual=False, positions=False)
@LAYER_NORM.pair("layer norm and positions", row=False, residual=False)
@LAYER_NORM.pair("residual and layer norm", row=False, positions=False)
@LAYER_NORM.pair("residual, layer norm and what comes next", row=False, positions=False, ahead=True)
@LAYER_NORM.pair("residual, layer norm and positions")
def _pair(
    make: Make, clips: int, frames: int, side: int, channels: int, residual: bool = True, positions: bool = True,
    ahead: bool = False,
) -> Pair:  # fmt: skip
    x, weight, bias = make(frames, clips * side * side, channels), make(channels), make(channels)
    added = make(*x.shape) if residual else None
    rows, more = make(frames, channels) if positions else None, make(channels) if ahead else None

    def kernel() -> Tensor | tuple[Tensor, Tensor]:
        if added is None:
            return layer_norm_kernel(x, weight, bias, rows, 1e-5)
        return add_layer_norm_kernel(x, added, weight, bias, rows, 1e-5, more)

    def plain() -> Tensor | tuple[Tensor, Tensor]:
        both = layer_norm_eager(x, weight, bias, 1e-5, rows, added, more)
        return both if residual else both[1]

    return Pair(kernel, plain, (x, weight, bias, rows, added, more), 2 * size_of(x, added))
