"""Who is told of a training run: its plot, its validation clips, its TensorBoard log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .motion_loop import MotionTrainer


class Watcher:
    """Is told of a run; the run is the same with and without it."""

    def stepped(self, trainer: MotionTrainer, row: dict[str, float]) -> None:
        """A step was taken; `row` is its line of the log."""

    def saved(self, trainer: MotionTrainer) -> None:
        """A checkpoint was written."""
