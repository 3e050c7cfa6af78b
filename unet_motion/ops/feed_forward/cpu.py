"""How much of a feed-forward layer a CPU computes at once."""

from __future__ import annotations

import torch
from torch import Tensor

CPU_CHUNK = 1 << 21
"""Entries of a feed-forward layer's inner tensor that a CPU computes at once, so that they stay in its caches."""

CPU_ROWS = 1024
"""But at least so many tokens, as the weights are read again for each part."""


def rows_at_once(width: int) -> int:
    """Tokens of a width that a CPU computes at once."""
    return max(CPU_ROWS, CPU_CHUNK // (8 * width))


def parts(tokens: Tensor) -> list[slice]:
    """Which of the tokens (N, C) are computed at once; elsewhere than on a CPU and in compiled code all of them."""
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, len(tokens))]
    rows = rows_at_once(tokens.shape[1])
    return [slice(start, min(start + rows, len(tokens))) for start in range(0, len(tokens), rows)]


def pixels_at_once(tokens: Tensor) -> int:
    """So many pixels of tokens (B, F, P, C) that a CPU computes at once; elsewhere and in compiled code all."""
    batch, frames, pixels, channels = tokens.shape
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return pixels
    return min(pixels, -(-2 * rows_at_once(channels) // (batch * frames)))
