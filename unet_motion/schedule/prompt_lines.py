"""Lines of prompts as people write them: ``"0": "a red star",``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

ENTRY = re.compile(
    r"""(?:"(?P<quoted>[^"\n]*)"|(?P<bare>[-+.%\d:\ \t]+?))\s*[:=]\s*"(?P<text>(?:[^"\\]|\\.)*)" """.strip(), re.DOTALL
)
ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt])')
GAP = re.compile(r"[\s,]*")
END = re.compile(r"[ \t]*(,|\n|\r|$)")
EXPECTED = 'a line such as "0": "a red star"'


def read_lines(text: str) -> Iterator[tuple[int, str, str, str]]:
    """(number of the line, place, prompt, way to the next) of each prompt in a text.

    An entry is ``"FRAME": "TEXT"``, with ``=`` for the colon if wanted, the frame with or without quotes, a comma or a
    new line behind it, and braces around all of them or none. The text may go over several lines; ``\\"`` is a
    quotation mark in it, and JSON's other escapes mean what they mean there. ``a:b`` as a frame holds the prompt from a
    up to b; ``a:`` holds it up to the next one.

    Raises:
        ValueError: anything else, with the number of the line.
    """
    start, stop = _behind_gap(text, 0, len(text)), len(text.rstrip())
    if text[start : start + 1] == "{" and text[:stop].endswith("}"):
        start, stop = start + 1, stop - 1
    while (start := _behind_gap(text, start, stop)) < stop:
        line = text.count("\n", 0, start) + 1
        entry = ENTRY.match(text, start, stop)
        if entry is None or END.match(text, entry.end(), stop) is None:
            rest = text[start if entry is None else entry.end() : stop].partition("\n")[0].strip()
            raise ValueError(f"line {line}: found {rest[:60]!r}, expected {EXPECTED}")
        frame = (entry["bare"] if entry["quoted"] is None else entry["quoted"]).strip()
        yield from ((line, *key) for key in _keys(frame, ESCAPE.sub(_plain, entry["text"])))
        start = entry.end()


def _behind_gap(text: str, start: int, stop: int) -> int:
    gap = GAP.match(text, start, stop)
    return start if gap is None else gap.end()


def _keys(frame: str, prompt: str) -> list[tuple[str, str, str]]:
    first, colon, last = (part.strip() for part in frame.partition(":"))
    if not colon:
        return [(first, prompt, "linear")]
    if not last:
        return [(first, prompt, "hold")]
    return [(first, prompt, "hold"), (last, prompt, "linear")]


def _plain(escape: re.Match) -> str:
    return json.loads(f'"{escape[0]}"')
