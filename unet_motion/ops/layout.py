"""Memory layouts of activations: pictures and tokens, and the rows of channels that kernels take."""

from __future__ import annotations

from torch import Tensor

MOST_ROWS = 2**31 - 2**16
"""Rows that 32 bits count, with those of the last program behind them."""


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H*W, C); a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def from_tokens(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H*W, C) as channels-last (N, C, H, W); a view."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def row_stride(x: Tensor) -> int | None:
    """The distance between neighbouring rows of x (..., C) where one number gives it for all, else None."""
    step = whole = None
    for size, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if step is None:
            step, whole = stride, stride * size
        elif whole is not None and stride == whole:
            whole *= size
        else:
            return None
    return x.shape[-1] if step is None else step


def not_rows(x: Tensor) -> str | None:
    """Why x (..., C) is not rows of dense channels at one distance, or None."""
    if x.stride(-1) != 1 and x.shape[-1] != 1:
        return "its last axis is strided"
    return "its rows lie at several distances" if row_stride(x) is None else None


def too_many_rows(x: Tensor) -> str | None:
    """Why a kernel that counts rows in 32 bits does not take x (..., C), or None."""
    if x.numel() <= MOST_ROWS * x.shape[-1]:
        return None
    return f"{x.numel() // x.shape[-1]} rows are more than {MOST_ROWS}"


def empty_result(hidden: Tensor, skip: Tensor) -> Tensor:
    """(N, C + D, H, W) in channels-last memory."""
    n, c, h, w = hidden.shape
    return hidden.new_empty(n, h, w, c + skip.shape[1]).permute(0, 3, 1, 2)
