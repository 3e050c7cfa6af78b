"""Prompts over the frames of a clip: which frame gets which text, or how much of which two."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..values import quoted
from .places import Place, check_order, resolve
from .prompt_lines import read_lines

INTERPOLATIONS = ("linear", "slerp")
PROMPT_WAYS = ("hold", "linear", "smooth")
NEGATIVE = "--neg"
"""In a prompt, what stands before its negative part."""

Share = tuple[int, int, float]
"""Numbers of two texts, and the share of the second one."""


@dataclass(frozen=True)
class PromptKey:
    """A prompt at a place, and the way from here to the next one: see :data:`unet_motion.schedule.curve.WAYS`."""

    at: Place
    text: str
    way: str = "linear"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"the prompt at {self.at} is {quoted(self.text)}, expected text")
        if self.way not in PROMPT_WAYS:
            raise ValueError(f"the way from {self.at} is {quoted(self.way)}, expected one of {', '.join(PROMPT_WAYS)}")


@dataclass(frozen=True)
class PromptSchedule:
    """Prompts over the frames of a clip.

    Args:
        keys: at least one, in order, one at a place. Before the first and behind the last the text is theirs.
        before, after: text around each prompt.
        interpolation: between two prompts ``linear`` mixes what the text encoder gives; ``slerp`` goes from each token
            to its counterpart on a circle (Shoemake, 1985, https://doi.org/10.1145/325165.325242).

    Raises:
        ValueError: no keys, keys that go back, or an unknown interpolation.
    """

    keys: tuple[PromptKey, ...]
    before: str = ""
    after: str = ""
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError('found no prompts, expected lines such as "0": "a red star"')
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"the interpolation is {quoted(self.interpolation)}, expected one of {known}")
        check_order([key.at for key in self.keys])

    @classmethod
    def constant(cls, text: str) -> PromptSchedule:
        """One prompt for all frames."""
        return cls((PromptKey(Place(0.0), text),))

    @classmethod
    def parse(
        cls, name: str, text: str, before: str = "", after: str = "", interpolation: str = "linear"
    ) -> PromptSchedule:
        """A schedule of a text: JSON (see :meth:`from_json`), or lines as :func:`read_lines` takes them.

        Args:
            name: of what holds the text, for errors.
            before, after, interpolation: where JSON does not say otherwise.

        Raises:
            ValueError: anything else, with the line, what was found and what was expected.
        """
        given = {"before": before, "after": after, "interpolation": interpolation}
        try:
            if (found := _object(text)) is not None:
                return cls.from_json({**given, **found})
            keys = []
            for line, place, prompt, way in read_lines(text):
                try:
                    keys.append(PromptKey(Place.read(place, "frames"), prompt, way))
                    check_order([key.at for key in keys[-2:]])
                except ValueError as error:
                    raise ValueError(f"line {line}: {error}") from None
            return cls(tuple(keys), **given)
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}.") from None

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> PromptSchedule:
        """A schedule of an object as :meth:`to_json` makes it.

        Raises:
            ValueError: anything else.
        """
        unknown = found.keys() - {"keys", "before", "after", "interpolation"}
        if unknown or not isinstance(found.get("keys"), list):
            part = f"the unknown entry {quoted(min(unknown))}" if unknown else "no list `keys`"
            raise ValueError(f"found {part}, expected `keys` and perhaps `before`, `after` and `interpolation`")
        texts = {name: found.get(name, "") for name in ("before", "after")}
        if wrong := [name for name, text in texts.items() if not isinstance(text, str)]:
            raise ValueError(f"`{wrong[0]}` is {quoted(found[wrong[0]])}, expected text")
        keys = tuple(_key(key) for key in found["keys"])
        return cls(keys, **texts, interpolation=found.get("interpolation", "linear"))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_json` gives an equal schedule."""
        keys = [{"at": key.at.plain("frames"), "text": key.text, "way": key.way} for key in self.keys]
        return {"keys": keys, "before": self.before, "after": self.after, "interpolation": self.interpolation}

    def whole(self, key: PromptKey) -> str:
        """A key's text with what stands around each prompt."""
        return " ".join(part for part in (self.before, key.text, self.after) if part.strip())

    @property
    def texts(self) -> tuple[str, ...]:
        """The distinct texts, in order."""
        return tuple(dict.fromkeys(map(self.whole, self.keys)))

    def split_negative(self) -> tuple[PromptSchedule, PromptSchedule]:
        """The schedule without, and that of, what stands behind ``--neg`` in each prompt and around them."""

        def part(index: int) -> PromptSchedule:
            def cut(text: str) -> str:
                return (text.partition(NEGATIVE)[2 * index]).strip() if NEGATIVE in text else ("" if index else text)

            keys = tuple(replace(key, text=cut(key.text)) for key in self.keys)
            return replace(self, keys=keys, before=cut(self.before), after=cut(self.after))

        return part(0), part(1)

    def shares(self, frames: int) -> list[Share]:
        """For each frame of a clip the numbers of two of :attr:`texts` and the second one's share.

        Raises:
            ValueError: a key outside of the clip, or one that no frame is reached by.
        """
        holds = [key.way == "hold" for key in self.keys]
        places = resolve([key.at for key in self.keys], frames - 1.0, holds)
        numbers = {text: number for number, text in enumerate(self.texts)}
        order = [numbers[self.whole(key)] for key in self.keys]
        found, left = [], 0
        for frame in range(frames):
            while left + 1 < len(places) and places[left + 1] <= frame:
                left += 1
            right = min(left + 1, len(places) - 1)
            width = places[right] - places[left]
            t = min(1.0, max(0.0, (frame - places[left]) / width)) if width > 0 else 0.0
            found.append((order[left], order[right], SHAPES[self.keys[left].way](t)))
        return found


SHAPES: dict[str, Callable[[float], float]] = {
    "hold": lambda t: 0.0,
    "linear": lambda t: t,
    "smooth": lambda t: t * t * (3 - 2 * t),
}
"""Way -> the next prompt's share at a share t of the way."""


def common_length(lengths: Sequence[int], most: int = 16) -> int:
    """The length to which texts are repeated whole, so that each of them says what it says alone.

    Attention over tokens that all occur n times gives what it gives for one of each; attention over zeros that were
    padded gives something else.

    Raises:
        ValueError: it is more than ``most`` times the longest.
    """
    length = math.lcm(*lengths)
    if length > most * max(lengths):
        known = ", ".join(map(str, sorted(set(lengths))))
        raise ValueError(f"the prompts are of {known} tokens, expected lengths with a common multiple of less tokens")
    return length


def _object(text: str) -> dict | None:
    """The JSON object of a schedule, or None for lines."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "keys" in found else None


def _key(found: Any) -> PromptKey:
    if not isinstance(found, dict) or not {"at", "text"} <= found.keys() <= {"at", "text", "way"}:
        raise ValueError(f"found the key {quoted(found)}, expected {{'at': ..., 'text': ..., 'way': ...}}")
    return PromptKey(Place.read(found["at"], "frames"), found["text"], found.get("way", "linear"))
