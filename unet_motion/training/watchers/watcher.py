"""Who is told of a training run: its plot, its validation clips, its TensorBoard log."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ...model.unet_motion_model import UNetMotionModel
from ..objective import Objective
from ..recipe import MotionRecipe


class Run(Protocol):
    """What a watcher sees of a run."""

    folder: Path
    step: int
    recipe: MotionRecipe
    unet: UNetMotionModel
    objective: Objective

    def averaged(self) -> AbstractContextManager[None]:
        """While it is entered, the UNet has the averaged weights, where these are kept."""
        ...


class Watcher:
    """Is told of a run; the run is the same with and without it."""

    def stepped(self, trainer: Run, row: dict[str, float]) -> None:
        """A step was taken; `row` is its line of the log."""

    def saved(self, trainer: Run) -> None:
        """A checkpoint was written."""
