"""The memory layout of attention over frames."""

from __future__ import annotations

from torch import Tensor


def empty_result(query: Tensor) -> Tensor:
    """(N, heads, F, dim) in the memory order of tokens, (F, N, heads, dim)."""
    n, heads, frames, dim = query.shape
    return query.new_empty(frames, n, heads, dim).permute(1, 2, 0, 3)
