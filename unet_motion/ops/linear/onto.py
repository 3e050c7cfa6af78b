"""A linear layer that adds its product to the residual stream inside the product: a pass over memory less.

The product's epilogue takes one summand, which is the stream; so the bias has to join that before.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..layer import is_hooked, may_be_read
from ..layer_norm.triton_op import LAYER_NORM
from ..proof import wanted
from .float8 import is_float8


def bias_ahead(first: nn.Module, last: nn.Linear, tokens: Tensor) -> Tensor | None:
    """The bias (C,) of ``last``, which the kernel of the norm before adds to the stream for nothing; None without it.

    ``first`` is the layer before, which has to be torch's own too, or in float8: then nobody sees what lies between.
    """
    if not wanted(LAYER_NORM, tokens) or not may_be_read(last, nn.Linear, tokens):
        return None
    own = may_be_read(first, nn.Linear, tokens) or (is_float8(first) and not is_hooked(first))
    return last.bias if own else None


def add_product(tokens: Tensor, x: Tensor, layer: nn.Linear) -> Tensor:
    """tokens (..., C) plus x (..., D) times the layer's weights, written into ``tokens`` where those lie in rows."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    return rows.addmm_(x.reshape(-1, x.shape[-1]), layer.weight.t()).view(tokens.shape)
