"""Where a key stands: at a frame, counted from the first or from the last one, or at a share of the whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..values import is_finite, quoted

OVER = ("frames", "steps")
"""What keys can stand over: the frames of a clip, or the steps of the sampling, of which they take a share."""

EXPECTED = {
    "frames": "a frame such as 0, 12 or -1 (the last one), or a share such as 0.5 or 50%",
    "steps": "a share of the sampling from 0 to 1, such as 0.5 or 50%",
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
MOST_FRAMES = 1e9


@dataclass(frozen=True)
class Place:
    """A frame, or a share of the way from the first frame (or step) to the last.

    Attributes:
        number: of the frame, from 0, negative from the end (-1 is the last one); or the share, 0 to 1.
        share: which of the two it is.
    """

    number: float
    share: bool = False

    @classmethod
    def read(cls, found: Any, over: str) -> Place:
        """A place as it is written in text (a string) or in JSON (a string or a number).

        Over frames whole numbers are frames; numbers between 0 and 1, numbers that are written with a point, and
        percentages are shares. Over steps all are shares.

        Raises:
            ValueError: anything else; the sentence says what was found and expected.
        """
        place = cls._read(found, over)
        if place is None:
            raise ValueError(f"found {quoted(found)}, expected {EXPECTED[over]}")
        return place

    @classmethod
    def _read(cls, found: Any, over: str) -> Place | None:
        if isinstance(found, bool) or not isinstance(found, (int, float, str)):
            return None
        word = found.strip() if isinstance(found, str) else None
        percent = word is not None and word.endswith("%")
        if word is not None:
            word = word.removesuffix("%").strip()
            if NUMBER.fullmatch(word) is None:
                return None
        if not isinstance(found, str) and not is_finite(found):
            return None
        number = float(found if word is None else word) / (100 if percent else 1)
        if not is_finite(number):
            return None
        written = word is not None and "." in word
        if percent or over == "steps" or (0 <= number <= 1 and (number % 1 or written)):
            return cls(number, share=True) if 0 <= number <= 1 else None
        return cls(number) if number % 1 == 0 and abs(number) <= MOST_FRAMES else None

    def among(self, last: float) -> float:
        """Where this is on a way from 0 to ``last``, the number of the last frame, or 1 over steps."""
        if self.share:
            return self.number * last
        return self.number if self.number >= 0 else last + 1 + self.number

    def plain(self, over: str) -> int | float | str:
        """As :meth:`read` takes it from JSON."""
        if not self.share:
            return int(self.number)
        if over == "frames" and self.number in (0, 1):
            return f"{self.number:.0%}"
        return self.number

    def __str__(self) -> str:
        return f"{self.number * 100:g}%" if self.share else f"{self.number:g}"


def check_order(places: Sequence[Place], most: int = 1) -> None:
    """Raise ValueError where places go back, as far as that does not depend on the number of frames.

    Args:
        most: keys that may stand at one place; two make a jump.
    """
    for share, negative in ((True, False), (False, False), (False, True)):
        alike = [p for p in places if p.share == share and (p.number < 0) == negative]
        for i, place in enumerate(alike):
            if i and place.number < alike[i - 1].number:
                raise ValueError(f"{place} stands behind {alike[i - 1]}, expected places that rise")
            if i >= most and place.number == alike[i - most].number:
                allowed = "one" if most == 1 else "two, a jump"
                raise ValueError(f"found {most + 1} keys at {place}, expected at most {allowed}")


def resolve(places: Sequence[Place], last: float, holds: Sequence[bool]) -> list[float]:
    """Places on a way from 0 to ``last``.

    Args:
        holds: for each key whether it holds its value to the next one.

    Raises:
        ValueError: a place before the first frame or behind the key after it, or a key that no frame is reached by.
    """
    found = [place.among(last) for place in places]
    frames = f"the clip has {last + 1:g} frames"
    for i, (place, here) in enumerate(zip(places, found, strict=True)):
        if here < 0:
            raise ValueError(f"{place} lies before the first frame: {frames}, expected at least {-last - 1:g}")
        if i and here < found[i - 1]:
            raise ValueError(f"{place} stands behind {places[i - 1]}, expected places that rise: {frames}")
        if i and here > last and (holds[i - 1] or found[i - 1] >= last):
            raise ValueError(f"{place} is never reached: {frames}, expected at most {last:g}")
    return found
