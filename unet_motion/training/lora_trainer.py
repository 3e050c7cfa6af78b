"""Training a LoRA: plain, or split into what moves and what it looks like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .batch import Draw
from .lora import SPATIAL, TEMPORAL, TrainableLora
from .trainer import MotionTrainer

WITHOUT_SPATIAL = 0.2
"""Share of the steps in which the spatial LoRA is left out, so that the temporal one moves other things too."""


class LoraTrainer(MotionTrainer):
    """A run that trains a LoRA and nothing else.

    Where the LoRA has a spatial part (MotionDirector, Zhao et al. 2023, https://arxiv.org/abs/2310.08465), that is
    trained on single frames, and the temporal part on clips with the spatial one fixed beside it, so that it has no
    reason to learn how the clips look.

    Args:
        lora: acts on the UNet.
        debias: weight of the appearance-debiased loss, see `Objective.debiased`; 0 is off.
        others: see `MotionTrainer`.
    """

    def __init__(self, lora: TrainableLora, *args: Any, debias: float = 0.0, **kwargs: Any) -> None:
        if not 0 <= debias < float("inf"):
            raise ValueError(f"`debias` is {debias}, expected at least 0.")
        self.lora, self.debias = lora, debias
        more = {"lora": lora.settings.identity(), "debias": debias}
        kwargs |= {"trained": lora.parameters(), "more": more}
        super().__init__(*args, **kwargs)

    def draw(self) -> Draw:
        """As any batch, with the frame of each clip that the losses of a single one look at."""
        draw, settings = super().draw(), self.lora.settings
        if settings.spatial or self.debias:
            count, frames = draw.clean.shape[:2]
            draw.extra["frame"] = torch.randint(frames, (count,), generator=self.generator)
        if settings.spatial:
            alone = torch.rand((), generator=self.generator) < WITHOUT_SPATIAL
            draw.extra["alone"] = alone.repeat(len(draw))
        return draw

    def losses(self, draw: Draw) -> Iterator[Tensor]:
        """The loss of single frames, where there is a spatial part, and the loss of clips."""
        alone = SPATIAL in self.lora.pairs and bool(draw.extra["alone"][0])
        # The scales hold until the caller has differentiated: checkpointing computes the layers again then.
        if SPATIAL in self.lora.pairs and not alone:
            with self.lora.only({TEMPORAL: 0.0}):
                yield self.loss(_single_frames(draw))
        with self.lora.only({SPATIAL: 0.0} if alone else {}, {SPATIAL}):
            predicted = self.predict(draw)
            loss = self.objective.loss(*predicted)
            if self.debias:
                loss = loss + self.debias * self.objective.debiased(*predicted, draw.extra["frame"])
            yield loss


def _single_frames(draw: Draw) -> Draw:
    """One frame of each clip as a clip of its own."""
    rows = torch.arange(len(draw))
    clean, noise = (value[rows, draw.extra["frame"]][:, None] for value in (draw.clean, draw.noise))
    return Draw(clean, noise, draw.timesteps, draw.text, draw.source, draw.extra)
