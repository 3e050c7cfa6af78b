"""Which window covers which frames, for the page: a picture on the node that sets windows, runs for a timeline."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from PIL import Image

from ....unet_motion.sampling import ContextWindows
from ....unet_motion.sampling.window_picture import draw_windows

STEPS = 6
MOST_FRAMES, MOST_LINES, MOST_RUNS = 4096, 400, 64
WIDEST, TALLEST = 260, 130
"""Pixels, about those of a node."""


def picture_of_settings(query: Mapping[str, str]) -> bytes:
    """A PNG of the windows of the first steps.

    Raises:
        ValueError: see :func:`_read`; or more windows than there is room for.
    """
    return _drawn(*_read(query))


def frames_of_settings(query: Mapping[str, str]) -> list[list[list[int]]]:
    """The first windows of the first step, each as runs [first, last] of neighbouring frames; none where none act.

    Raises:
        ValueError: see :func:`_read`.
    """
    windows, frames = _read(query)
    return [_runs(window) for window in windows.windows(frames)[:MOST_RUNS]] if windows.apply_to(frames) else []


def _read(query: Mapping[str, str]) -> tuple[ContextWindows, int]:
    """Windows and the frames of their clip.

    Args:
        query: `frames` of the clip and settings of :class:`ContextWindows` by their names, as the page writes them.

    Raises:
        ValueError: a setting that is unknown or cannot be.
    """
    given = dict(query)
    frames = _value("frames", given.pop("frames", ""), 0)
    if not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"`frames` is {frames}, expected 1 to {MOST_FRAMES}.")
    known = {field.name: 0 if field.default is None else field.default for field in fields(ContextWindows)}
    for name in given:
        if name not in known:
            raise ValueError(f"found the setting {name[:40]!r}, expected one of {', '.join(known)}.")
    settings = {name: _value(name, text, known[name]) for name, text in given.items()}
    return ContextWindows(**{**settings, "loop_frames": settings.get("loop_frames") or None}), frames


def _value(name: str, text: str, before: Any) -> Any:
    """A value of the kind that a setting has."""
    if isinstance(before, str):
        return text
    if isinstance(before, bool):
        if text not in ("true", "false"):
            raise ValueError(f"`{name}` is {text[:40]!r}, expected true or false.")
        return text == "true"
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"`{name}` is {text[:40]!r}, expected a whole number.") from None
    if not 0 <= number <= MOST_FRAMES:
        raise ValueError(f"`{name}` is {number}, expected 0 to {MOST_FRAMES}.")
    return number


def _drawn(windows: ContextWindows, frames: int) -> bytes:
    """As many steps as there is room for; where not even one is, that is said before the work."""
    levels = min(windows.stride, max(1, (frames // windows.length).bit_length() + 1))
    fresh = windows.length - (0 if windows.schedule == "batched" else windows.overlap)
    most = levels * -(-frames // fresh)
    if windows.apply_to(frames) and most > MOST_LINES:
        raise ValueError(f"about {most} windows in each step are too many for a picture; the clip is drawn anyway.")
    steps = max(1, min(STEPS, MOST_LINES // most))
    picture = draw_windows([windows.plan(frames, step) for step in range(steps)], frames, WIDEST, TALLEST)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _runs(frames: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return runs
