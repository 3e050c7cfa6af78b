"""The loss of a run as a picture, drawn with Pillow alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ...files.atomic import atomic_file
from .watcher import Watcher

SIZE = (960, 480)
_LEFT, _TOP, _RIGHT, _BOTTOM = 80, 24, 20, 44
_PAPER, _INK, _GRID, _EACH, _MEAN = "#ffffff", "#333333", "#e4e4e4", "#b9cdea", "#1f5fbf"


def read_losses(path: Path) -> list[float]:
    """The losses in a run's log, in order."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line)["loss"] for line in lines]


def smoothed(losses: Sequence[float], share: float = 0.05) -> list[float]:
    """The mean of each loss and those before it, over a share of the run: single ones hang on their noise level."""
    width, sums = max(1, round(share * len(losses))), [0.0]
    for loss in losses:
        sums.append(sums[-1] + loss)
    return [(sums[i] - sums[max(0, i - width)]) / (i - max(0, i - width)) for i in range(1, len(sums))]


def loss_plot(losses: Sequence[float], steps: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Each step's loss and their running mean, on a logarithmic scale, over all steps of a run.

    Raises:
        ValueError: no losses.
    """
    if not losses:
        raise ValueError("there are no losses to draw, expected at least one.")
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    positive = [max(loss, 1e-12) for loss in losses]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    low, high = (
        (low - 0.5, high + 0.5) if high - low < 1e-6 else (low - 0.04 * (high - low), high + 0.04 * (high - low))
    )
    width, height = size[0] - _LEFT - _RIGHT, size[1] - _TOP - _BOTTOM

    def at(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + width * step / max(1, steps - 1)
        return x, _TOP + height * (high - math.log10(max(loss, 1e-12))) / (high - low)

    for part in range(5):
        level = 10 ** (low + (high - low) * part / 4)
        y = at(0, level)[1]
        pen.line([(_LEFT, y), (size[0] - _RIGHT, y)], fill=_GRID)
        pen.text((8, y - 6), f"{level:.3g}", fill=_INK)
        step = round((steps - 1) * part / 4)
        pen.text((at(step, level)[0] - 8, size[1] - 30), str(step), fill=_INK)
    pen.text((_LEFT, 4), f"loss, and its mean over the last twentieth of {len(losses)} steps", fill=_INK)
    for values, colour, wide in ((positive, _EACH, 1), (smoothed(positive), _MEAN, 2)):
        points = [at(i, value) for i, value in enumerate(values)]
        pen.line(points if len(points) > 1 else points * 2, fill=colour, width=wide)
    return image


class LossPlot(Watcher):
    """Draws `loss.png` in the run's folder at every checkpoint."""

    def saved(self, trainer) -> None:
        losses = read_losses(trainer.folder / "losses.jsonl")
        if losses:
            with atomic_file(trainer.folder / "loss.png") as part:
                loss_plot(losses, trainer.recipe.steps).save(part)
