"""Different windows in different parts of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..values import quoted
from .context_windows import ContextWindows


@dataclass(frozen=True)
class WindowPart:
    """Windows for a part of the sampling.

    Args:
        windows: how the clip is cut.
        start, end: shares of the sampling, 0 its first step and 1 its last, by the timesteps, as ComfyUI's percents.
        views: the windows are inside the motion modules, and all else of the model runs once for each frame.

    Raises:
        ValueError: a share outside of 0 to 1, or no part between the two.
    """

    windows: ContextWindows
    start: float = 0.0
    end: float = 1.0
    views: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"a part of windows is {self.start:g} to {self.end:g}, expected 0 <= start < end <= 1.")

    def holds(self, share: float) -> bool:
        """Whether the part has the step at a share of the sampling."""
        return self.start <= share and (share < self.end or self.end >= 1)


Windows = ContextWindows | Sequence[WindowPart]


def parts_of(windows: Windows | None, views: ContextWindows | None) -> tuple[WindowPart, ...]:
    """The parts that a run's arguments mean; none where no windows are given.

    Raises:
        ValueError: windows and views, or one of them is something else than windows.
    """
    if windows is not None and views is not None:
        raise ValueError("found `windows` and `views`, expected one of them")
    if views is not None:
        if not isinstance(views, ContextWindows):
            raise ValueError(f"`views` is {quoted(views)}, expected ContextWindows.")
        return (WindowPart(views, views=True),)
    if isinstance(windows, ContextWindows):
        return (WindowPart(windows),)
    given: Any = windows
    parts: tuple[Any, ...] = tuple(given or ()) if isinstance(given, (list, tuple, type(None))) else (given,)
    if not all(isinstance(part, WindowPart) for part in parts):
        raise ValueError(f"`windows` is {quoted(windows)}, expected ContextWindows or a list of WindowPart.")
    return parts


def part_at(parts: Sequence[WindowPart], share: float) -> WindowPart | None:
    """Of the parts that hold a step the last one, or None: the whole clip is drawn at once."""
    return next((part for part in reversed(parts) if part.holds(share)), None)


def uncovered(parts: Sequence[WindowPart]) -> float | None:
    """From which share of the sampling on a step may have no windows, or None."""
    reached = 0.0
    for part in sorted(parts, key=lambda part: part.start):
        if part.start <= reached:
            reached = max(reached, part.end)
    return None if reached >= 1 else reached
