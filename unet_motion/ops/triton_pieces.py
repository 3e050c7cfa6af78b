"""How often a kernel's loop runs."""

from __future__ import annotations

from typing import cast

import triton


def pieces(length: int, piece: int) -> int:
    """Pieces of a length, as a power of two: the number is compiled in, and so few variants are compiled."""
    return cast(int, triton.next_power_of_2(triton.cdiv(length, piece)))
