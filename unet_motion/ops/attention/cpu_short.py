"""Attention of many short sequences, such as the frames of each pixel, on a CPU.

bfloat16 is widened to float32 and rounded once, at the end: products in bfloat16 would round the scores and weights
too, and lie twice as far from the exact values as torch's own attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import empty_result

SHORT = 64
"""Sequences up to this length count as short."""

SHORT_ROW = 16
"""Rows up to this length are normalised here; torch's softmax takes 80 ns for each, however short it is."""

MOST_WIDENED = 8 * 8 * 80
"""Multiplications of a sequence's scores up to which they take less time in float32 than torch's attention in bfloat16,
whose time lies in the call of each sequence."""


def serves(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether `attend` can compute attention of these (N, heads, L, dim)."""
    if mask is not None or query.device.type != "cpu" or not _is_fast(query, key):
        return False
    return max(query.shape[2], key.shape[2]) <= SHORT and all(map(_rows_and_heads_merge, (query, key, value)))


def _is_fast(query: Tensor, key: Tensor) -> bool:
    if query.dtype == torch.bfloat16:
        return query.shape[2] * key.shape[2] * query.shape[3] <= MOST_WIDENED
    return query.dtype in (torch.float32, torch.float64)


def _rows_and_heads_merge(x: Tensor) -> bool:
    return x.stride(0) == x.shape[1] * x.stride(1)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of (N, heads, L, dim) as two batched products."""
    if query.dtype == torch.bfloat16:
        # Straight into the order of tokens: a pass less.
        return empty_result(query).copy_(attend(query.float(), key.float(), value.float(), scale))
    q, k, v = (t.flatten(0, 1) for t in (query, key, value))
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(_softmax(scores), v).unflatten(0, query.shape[:2])


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis of ``scores`` (N, L, S), which are overwritten where they are short."""
    if scores.shape[-1] > SHORT_ROW or torch.compiler.is_compiling():
        return scores.softmax(dim=-1)
    return _Softmax.apply(scores) if torch.is_grad_enabled() and scores.requires_grad else _normalise(scores)


def _normalise(scores: Tensor) -> Tensor:
    weights = scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
    return weights.div_(_row_sums(weights))


def _row_sums(x: Tensor) -> Tensor:
    """x (N, L, S) summed over S, as (N, L, 1); as a product, which is faster than torch's sum."""
    return (x.reshape(-1, x.shape[-1]) @ x.new_ones(x.shape[-1], 1)).view(*x.shape[:-1], 1)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor) -> Tensor:
        out = _normalise(scores.clone())
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        weighted = gradient * out
        return weighted - out * _row_sums(weighted)
