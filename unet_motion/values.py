"""What came in, of any type: whether it is a number, and how an error quotes it."""

from __future__ import annotations

import sys
from typing import Any


def is_finite(number: float) -> bool:
    """Whether it is a number that a float can hold: not NaN, not infinite, no whole number of hundreds of digits."""
    return abs(number) <= sys.float_info.max


def quoted(found: Any) -> str:
    """What was found, for an error; of a long text the beginning."""
    try:
        text = repr(found)
    except ValueError:  # Python writes no numbers of thousands of digits
        return f"a {type(found).__name__} with a number of too many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
