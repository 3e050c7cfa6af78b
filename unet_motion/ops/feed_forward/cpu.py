"""How much of a feed-forward layer a CPU computes at once."""

from __future__ import annotations

CPU_CHUNK = 1 << 21
"""Entries of a feed-forward layer's inner tensor that a CPU computes at once, so that they stay in its caches."""

CPU_ROWS = 1024
"""But at least so many tokens, as the weights are read again for each part."""


def rows_at_once(width: int) -> int:
    """Tokens of a width that a CPU computes at once."""
    return max(CPU_ROWS, CPU_CHUNK // (8 * width))
