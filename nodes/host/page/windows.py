"""Which window covers which frames, for the drawing of a timeline."""

from __future__ import annotations

from collections.abc import Mapping

from ....unet_motion.sampling import SCHEDULES, ContextWindows

MOST_FRAMES = 4096
MOST_WINDOWS = 64
"""So many are drawn at most."""
NUMBERS = ("length", "overlap", "stride", "loop_frames", "frames")


def windows_for_page(query: Mapping[str, str]) -> list[list[list[int]]]:
    """The first windows of a first step, each as runs [first, last] of neighbouring frames.

    Args:
        query: the inputs of Context Windows (motion) that say what the windows are, and `frames`, all as text.

    Raises:
        ValueError: a setting that is missing, or is none.
    """
    numbers = {}
    for name in NUMBERS:
        text = query.get(name, "")
        if not text.isascii() or not text.isdigit() or int(text[:9]) > MOST_FRAMES or len(text) > 9:
            raise ValueError(f"`{name}` is {text[:40]!r}, expected a whole number from 0 to {MOST_FRAMES}.")
        numbers[name] = int(text)
    frames, loop = numbers.pop("frames"), numbers.pop("loop_frames") or None
    schedule = query.get("schedule", "")
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` is {schedule[:40]!r}, expected one of {', '.join(SCHEDULES)}.")
    flags = {name: query.get(name) == "true" for name in ("closed_loop", "use_on_equal_length")}
    windows = ContextWindows(**numbers, schedule=schedule, loop_frames=loop, **flags)
    if not windows.apply_to(frames):
        return []
    return [_runs(window) for window in windows.windows(frames)[:MOST_WINDOWS]]


def _runs(frames: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return runs
