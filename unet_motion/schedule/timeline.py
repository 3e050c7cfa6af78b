"""Prompts and curves of one clip, as the timeline of a ComfyUI node holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..values import quoted
from .curve import Curve
from .prompts import PromptSchedule

TRACKS = ("scale", "effect", "cfg", "strength")
"""Curves of a timeline: motion scale, motion effect, guidance, and one for whatever else takes a curve."""

RANGES = {"scale": (0, 10), "effect": (-10, 10), "cfg": (0, 100)}
"""Least and greatest values of tracks, as those of the nodes that take one for all."""

EXPECTED = '{"prompts": {"keys": [{"at": 0, "text": "..."}]}, "curves": {"effect": {"keys": [...]}}}'


@dataclass(frozen=True)
class Timeline:
    """Prompts and curves over the frames of a clip.

    Args:
        prompts: which frame gets which text.
        curves: name of :data:`TRACKS` -> curve over frames or steps; a name that is not there is not changed.

    Raises:
        ValueError: a curve of another name, or one with a value out of its range.
    """

    prompts: PromptSchedule
    curves: Mapping[str, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(self.curves.keys() - set(TRACKS)):
            raise ValueError(f"found the curve {unknown[0]!r:.60}, expected one of {', '.join(TRACKS)}")
        for name in self.curves.keys() & RANGES.keys():
            (least, most), keys = RANGES[name], self.curves[name].keys
            if wrong := next((key for key in keys if not least <= key.value <= most), None):
                found = f"the value at {wrong.at} is {quoted(wrong.value)}"
                raise ValueError(f"the curve {quoted(name)}: {found}, expected {least} to {most}")

    @classmethod
    def parse(cls, name: str, text: str) -> Timeline:
        """A timeline of JSON; see :meth:`from_json`.

        Args:
            name: of what holds the text, for errors.

        Raises:
            ValueError: no JSON, or another form.
        """
        try:
            return cls.from_json(json.loads(text, object_pairs_hook=_each_once))
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}: {error.msg}"
            raise ValueError(f"`{name}` is no JSON: {where}; expected {EXPECTED}.") from None
        except RecursionError:
            raise ValueError(f"`{name}` is nested too deeply, expected {EXPECTED}.") from None
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}.") from None

    @classmethod
    def read(cls, name: str, text: str) -> Timeline:
        """A timeline of the text of a file: its JSON, or prompts alone as :meth:`PromptSchedule.parse` takes them.

        Raises:
            ValueError: anything else.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and found.keys() & {"prompts", "curves"}:
            return cls.parse(name, text)
        return cls(PromptSchedule.parse(name, text))

    @classmethod
    def from_json(cls, found: Any) -> Timeline:
        """A timeline of an object as :meth:`to_json` makes it.

        ``prompts`` is what :meth:`PromptSchedule.from_json` takes, each of ``curves`` what :meth:`Curve.from_json`
        takes; a schedule of prompts alone will do too.

        Raises:
            ValueError: anything else, with the name of the curve that is wrong.
        """
        if not isinstance(found, dict):
            raise ValueError(f"found {type(found).__name__}, expected {EXPECTED}")
        if "prompts" not in found and "keys" in found:
            return cls(PromptSchedule.from_json(found))
        if unknown := sorted(found.keys() - {"prompts", "curves"}):
            raise ValueError(f"found the unknown entry {unknown[0]!r:.60}, expected `prompts` and perhaps `curves`")
        prompts, curves = _object("prompts", found.get("prompts")), _object("curves", found.get("curves", {}))
        return cls(PromptSchedule.from_json(prompts), {name: _curve(name, curve) for name, curve in curves.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_json` gives an equal timeline."""
        curves = {name: curve.to_json() for name, curve in self.curves.items()}
        return {"prompts": self.prompts.to_json(), "curves": curves}

    def check(self, frames: int) -> None:
        """Raise ValueError for a key that lies outside of a clip of so many frames."""
        self.prompts.shares(frames)
        for name, curve in self.curves.items():
            try:
                curve.pieces(frames if curve.over == "frames" else None)
            except ValueError as error:
                raise ValueError(f"the curve {name!r:.60}: {error}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"found {quoted(name)} twice, expected each name once")
        found[name] = value
    return found


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` is {value!r:.60}, expected {EXPECTED}")
    return value


def _curve(name: str, found: Any) -> Curve:
    try:
        return Curve.from_json(found)
    except ValueError as error:
        raise ValueError(f"the curve {name!r:.60}: {error}") from None
