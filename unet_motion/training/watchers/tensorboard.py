"""A run's losses, rates and validation clips for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .watcher import Watcher


class TensorBoard(Watcher):
    """Writes event files.

    Args:
        folder: of the event files; a resumed run adds one that begins at its checkpoint, and hides what a killed one
            wrote behind that.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "--tensorboard needs tensorboard, which is not installed: `pip install tensorboard`."
            ) from error
        self._make, self._folder = SummaryWriter, folder
        self._writer: SummaryWriter | None = None

    def _open(self, step: int):
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=step)
        return self._writer

    def stepped(self, trainer, row: dict[str, float]) -> None:
        writer = self._open(int(row["step"]))
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, int(row["step"]))

    def saved(self, trainer) -> None:
        if self._writer is not None:
            self._writer.flush()

    def show(self, name: str, step: int, frames: np.ndarray) -> None:
        """A validation clip, uint8 (F, H, W, 3), as its frames side by side: moving ones need a further package."""
        strip = torch.from_numpy(np.concatenate(list(frames), axis=1))
        self._open(step).add_image(name, strip, step, dataformats="HWC")
