"""The memory layout of attention over frames."""

from __future__ import annotations

from torch import Tensor


def empty_result(query: Tensor) -> Tensor:
    """(..., N, heads, F, dim) in the memory order of tokens, (..., F, N, heads, dim)."""
    *clips, n, heads, frames, dim = query.shape
    return query.new_empty(*clips, frames, n, heads, dim).movedim(-4, -2)
