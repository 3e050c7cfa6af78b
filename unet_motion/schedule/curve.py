"""Numbers over frames or over steps: a value, or keys with a way from each to the next."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..values import is_finite, quoted
from .places import OVER, Place, check_order, resolve

WAYS = ("hold", "linear", "smooth", "monotone")
"""From a key to the next one.

``hold``: the key's value up to the next key. ``linear``: straight. ``smooth``: 3 t^2 - 2 t^3, level at both keys.
``monotone``: a cubic without overshoot (Fritsch and Carlson, 1980, https://doi.org/10.1137/0717021), as ComfyUI draws
its curves.
"""

MOST_KEYS = 100_000


@dataclass(frozen=True)
class Key:
    """A value at a place, and the way from here to the next key."""

    at: Place
    value: float
    way: str = "linear"

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)) or not is_finite(self.value):
            raise ValueError(f"the value at {self.at} is {quoted(self.value)}, expected a finite number")
        if self.way not in WAYS:
            raise ValueError(f"the way from {self.at} is {quoted(self.way)}, expected one of {', '.join(WAYS)}")


@dataclass(frozen=True, eq=False)
class Pieces:
    """A curve with its places in numbers: cubics a + t (b + t (c + t d)), where t goes from 0 to 1 from key to key.

    Attributes:
        places: (K,), rising.
        factors: (K, 4), the last row level.
    """

    places: Tensor
    factors: Tensor

    def at(self, x: Tensor) -> Tensor:
        """Values at places x of any shape, in the dtype of the pieces; level before the first key and behind the last.

        Tensors throughout: looking at a place would wait for the device.
        """
        x = x.to(self.places)
        left = torch.bucketize(x, self.places, right=True).sub(1).clamp_min(0)
        right = (left + 1).clamp_max(len(self.places) - 1)
        start, width = self.places[left], self.places[right] - self.places[left]
        t = torch.where(width > 0, (x - start) / torch.where(width > 0, width, 1), 0).clamp(0, 1)
        a, b, c, d = self.factors[left].unbind(-1)
        return a + t * (b + t * (c + t * d))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pieces:
        return Pieces(self.places.to(device, dtype), self.factors.to(device, dtype))


@dataclass(frozen=True)
class Curve:
    """A number over the frames of a clip or over the steps of the sampling.

    Args:
        keys: at least one, in order. Two at one place are a jump. Before the first and behind the last the value is
            theirs.
        over: ``frames``; or ``steps``, where 0 is the first step and 1 the end of the sampling.
        is_list: the keys are a list with a value for each frame, which has to be as long as the clip.
        name: of the input that it came by, for errors of clips that it does not fit.

    Raises:
        ValueError: no keys, or keys that go back.
    """

    keys: tuple[Key, ...]
    over: str = "frames"
    is_list: bool = field(default=False, compare=False)
    name: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.over not in OVER:
            raise ValueError(f"a curve over {quoted(self.over)} was asked for, expected one over {' or '.join(OVER)}")
        if not 1 <= len(self.keys) <= MOST_KEYS:
            raise ValueError(f"found {len(self.keys)} keys, expected 1 to {MOST_KEYS}")
        check_order([key.at for key in self.keys], most=2)

    @classmethod
    def constant(cls, value: float, over: str = "frames") -> Curve:
        return cls((Key(Place(0.0, share=over == "steps"), value),), over)

    @classmethod
    def per_frame(cls, values: Sequence[float]) -> Curve:
        """A value for each frame of a clip, which has to have as many; one value is for all frames."""
        keys = tuple(Key(Place(float(i)), value) for i, value in enumerate(values))
        return cls(keys, is_list=len(keys) > 1)

    @classmethod
    def parse(cls, name: str, text: str, over: str = "frames") -> Curve:
        """A curve of a text: JSON (see :meth:`from_json`), one number, or keys.

        Keys stand between commas or in lines of their own: ``0:1, 8:0.5 smooth, -1:0``, each a place (see
        :meth:`Place.read`), a value, and if it is not linear the way to the next key.

        Args:
            name: of what holds the text, for errors.

        Raises:
            ValueError: anything else, with what was found and expected.
        """
        try:
            return replace(cls._of_text(text, over), name=name)
        except json.JSONDecodeError as error:
            raise ValueError(f"`{name}` is no JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from None
        except RecursionError:
            raise ValueError(f"`{name}` is nested too deeply, expected a number, a list of numbers or keys.") from None
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}.") from None

    @classmethod
    def _of_text(cls, text: str, over: str) -> Curve:
        if text.lstrip().startswith(("{", "[")):
            return cls.from_json(json.loads(text), over)
        parts = [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
        if len(parts) == 1 and ":" not in parts[0]:
            return cls.constant(_number(parts[0]), over)
        return cls(tuple(_key_of_text(part, over) for part in parts), over)

    @classmethod
    def from_json(cls, found: Any, over: str = "frames") -> Curve:
        """A curve of what JSON gives: a number, one number per frame, or an object as :meth:`to_json` makes it.

        Args:
            over: what the curve is over where the JSON does not say.

        Raises:
            ValueError: anything else.
        """
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return cls.constant(found, over)
        if isinstance(found, list) and over == "frames" and found and not isinstance(found[0], (list, dict)):
            return cls.per_frame(found)
        if isinstance(found, list):
            found = {"keys": found}
        if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
            raise ValueError(f"found {quoted(found)}, expected a number or {{'over': ..., 'keys': [...]}}")
        unknown = found.keys() - {"over", "keys"}
        if unknown:
            raise ValueError(f"found the unknown entry {quoted(min(unknown))}, expected `over` and `keys`")
        over = found.get("over", over)
        if over not in OVER:
            raise ValueError(f"`over` is {quoted(over)}, expected {' or '.join(OVER)}")
        return cls(tuple(_key_of_json(key, over) for key in found["keys"]), over)

    def to_json(self) -> dict[str, Any] | list[float]:
        """Plain JSON; :meth:`from_json` gives an equal curve."""
        if self.is_list:
            return [key.value for key in self.keys]
        keys = [{"at": k.at.plain(self.over), "value": k.value, "way": k.way} for k in self.keys]
        return {"over": self.over, "keys": keys}

    def __str__(self) -> str:
        """As :meth:`parse` takes it."""
        if self.is_list:
            return str(self.to_json())
        if self.is_constant:
            return repr(self.keys[0].value)
        words = []
        for key in self.keys:
            place = key.at.plain(self.over)
            words.append(f"{place}:{key.value!r}" + ("" if key.way == "linear" else f" {key.way}"))
        return ", ".join(words)

    @property
    def is_constant(self) -> bool:
        return len({key.value for key in self.keys}) == 1 and not self.is_list  # a list has a length to check

    def pieces(self, frames: int | None = None) -> Pieces:
        """The curve for a clip of so many frames, or over steps; float64 on the CPU.

        Raises:
            ValueError: a key outside of the clip, or one that no frame is reached by.
        """
        try:
            if (self.over == "frames") != (frames is not None):
                raise ValueError(f"a curve over {self.over} was asked for {frames} frames")
            places = self._places(frames)
        except ValueError as error:
            raise ValueError(f"`{self.name}`: {error}." if self.name else str(error)) from None
        return Pieces(torch.tensor(places, dtype=torch.float64), _factors(self.keys, places))

    def _places(self, frames: int | None) -> list[float]:
        if self.is_list and frames != len(self.keys):
            raise ValueError(f"found a list of {len(self.keys)} values, expected one for each of the {frames} frames")
        last = 1.0 if frames is None else frames - 1.0
        return resolve([key.at for key in self.keys], last, [key.way == "hold" for key in self.keys])

    def values(self, frames: int) -> Tensor:
        """The value at each frame of a clip, float64 (frames,).

        Raises:
            ValueError: see :meth:`pieces`.
        """
        return self.pieces(frames).at(torch.arange(frames, dtype=torch.float64))

    def value_at(self, share: float) -> float:
        """The value at a share of the sampling, of a curve over steps."""
        return float(self.pieces().at(torch.tensor(share, dtype=torch.float64)))


def product(curves: Sequence[Curve], frames: int, share: float) -> Tensor:
    """The product of curves at each frame of a clip at a share of the sampling, float64 (frames,)."""
    values = torch.ones(frames, dtype=torch.float64)
    for curve in curves:
        values = values * (curve.values(frames) if curve.over == "frames" else curve.value_at(share))
    return values


def _factors(keys: Sequence[Key], places: Sequence[float]) -> Tensor:
    """(K, 4), see :class:`Pieces`."""
    slopes, rows = _slopes(keys, places), []
    for i, key in enumerate(keys):
        a = key.value
        if i + 1 == len(keys) or key.way == "hold" or places[i + 1] == places[i]:
            rows.append((a, 0.0, 0.0, 0.0))
            continue
        rise = keys[i + 1].value - a
        if key.way == "linear":
            rows.append((a, rise, 0.0, 0.0))
        elif key.way == "smooth":
            rows.append((a, 0.0, 3 * rise, -2 * rise))
        else:
            start, end = (slope * (places[i + 1] - places[i]) for slope in slopes[i])
            rows.append((a, start, 3 * rise - 2 * start - end, start + end - 2 * rise))
    return torch.tensor(rows, dtype=torch.float64)


def _slopes(keys: Sequence[Key], places: Sequence[float]) -> list[tuple[float, float]]:
    """The slopes at both ends of each piece that is ``monotone``; only such pieces look at each other."""
    count = len(keys)
    widths = [places[i + 1] - places[i] for i in range(count - 1)]
    joined = [keys[i].way == "monotone" and widths[i] > 0 for i in range(count - 1)]
    secants = [(keys[i + 1].value - keys[i].value) / widths[i] if widths[i] > 0 else 0.0 for i in range(count - 1)]
    slopes: list[float] = []
    for i in range(count):
        before, after = (secants[j] if 0 <= j < count - 1 and joined[j] else None for j in (i - 1, i))
        if before is None or after is None:
            slopes.append((after if before is None else before) or 0.0)
        else:
            slopes.append(0.0 if before * after <= 0 else (before + after) / 2)
    for i in range(count - 1):
        if not joined[i]:
            continue
        if secants[i] == 0:
            slopes[i] = slopes[i + 1] = 0.0
            continue
        size = math.hypot(slopes[i] / secants[i], slopes[i + 1] / secants[i])
        if size > 3:
            slopes[i], slopes[i + 1] = (3 / size * slope for slope in (slopes[i], slopes[i + 1]))
    return [(slopes[i], slopes[i + 1]) for i in range(count - 1)]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"found {quoted(word)}, expected a number, or keys such as 0:1, 8:0.5") from None


def _key_of_text(part: str, over: str) -> Key:
    place, colon, rest = part.rpartition(":")
    words = rest.split()
    if not colon or not 1 <= len(words) <= 2:
        raise ValueError(f"found {quoted(part)}, expected PLACE:VALUE, or PLACE:VALUE and one of {', '.join(WAYS)}")
    return Key(Place.read(place, over), _number(words[0]), *words[1:])


def _key_of_json(found: Any, over: str) -> Key:
    if isinstance(found, list) and 2 <= len(found) <= 3:
        found = dict(zip(("at", "value", "way"), found, strict=False))
    if not isinstance(found, dict) or not {"at", "value"} <= found.keys() <= {"at", "value", "way"}:
        raise ValueError(f"found the key {quoted(found)}, expected {{'at': ..., 'value': ..., 'way': ...}}")
    return Key(Place.read(found["at"], over), found["value"], found.get("way", "linear"))
