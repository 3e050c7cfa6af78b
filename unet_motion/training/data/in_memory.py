"""Clips that are in memory already, encoded by whoever holds the encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from .clip_files import ClipOptions, ClipSource
from .dataset import ClipDataset


class HeldClips(ClipDataset):
    """Latents and texts, drawn as `ClipDataset` draws.

    Args:
        names: what messages call each clip.
        latents: a clip each, (F, C, h, w), scaled as the UNet takes them.
        texts: a clip each: `text` (T, D) for cross-attention, others for the time embedding.
        empty: the same of the empty prompt.
        frames: length of a drawn clip.

    Raises:
        ValueError: no clip, one that is shorter, or another number of names or texts.
    """

    def __init__(
        self,
        names: Sequence[str],
        latents: Sequence[Tensor],
        texts: Sequence[Mapping[str, Tensor]],
        empty: Mapping[str, Tensor],
        frames: int,
    ) -> None:
        if not len(names) == len(latents) == len(texts):
            raise ValueError(f"there are {len(names)} names, {len(latents)} clips and {len(texts)} texts of them.")
        if not latents:
            raise ValueError("there are 0 clips, expected at least 1.")
        for name, clip in zip(names, latents, strict=True):
            if clip.ndim != 4 or len(clip) < frames:
                raise ValueError(
                    f"{name}: has latents of shape {list(clip.shape)}, expected (at least {frames} frames, channels, "
                    "height, width)."
                )
        self.options, self.skipped = ClipOptions(frames=frames), []
        self.sources = [ClipSource(Path(name), "") for name in names]
        self.latents = [{"latents": clip.float().cpu().clone()} for clip in latents]
        *self.texts, self._empty = same_length([*texts, empty])

    def empty_text(self) -> dict[str, Tensor]:
        """The texts of the empty prompt."""
        return self._empty


def same_length(texts: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Texts whose `text` (T, D) is repeated to one length: attention to tokens that come equally often is the same."""
    length = math.lcm(*(len(text["text"]) for text in texts))
    return [
        {
            name: (value.repeat(length // len(value), 1) if name == "text" else value).float().cpu().clone()
            for name, value in text.items()
        }
        for text in texts
    ]
