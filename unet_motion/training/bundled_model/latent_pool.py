"""A pool of encoded clips that denoising is trained on, refreshed a little at every step.

Encoding costs several times the UNet's own step, so clips are encoded once and seen a few dozen times, each time with
other noise, another prompt and another timestep, until a newly drawn clip takes their place.
"""

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from ...bundled.autoencoder import Autoencoder
from .drawn_clips import FRAMES, ClipBatch, cell_weight, draw, sample_clips
from .precision import autocast

CHUNK = 8


@torch.no_grad()
def encode_clips(autoencoder: Autoencoder, clips: ClipBatch) -> tuple[Tensor, Tensor]:
    """Latents (N, F, 4, 8, 8) of drawn clips, and the share of each cell that the shape covers (N, F, 1, 8, 8)."""
    pictures, coverage = draw(clips)
    frames = pictures.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with autocast():
        latents = torch.cat([autoencoder.encode(part).float() for part in frames.split(32)])
    return latents.unflatten(0, pictures.shape[:2]).contiguous(), cell_weight(coverage, 1.0) - 1.0


class LatentPool:
    """Encoded clips in memory.

    Args:
        autoencoder: encodes; frozen.
        size: clips held.
        rng: draws the clips.
    """

    def __init__(self, autoencoder: Autoencoder, size: int, rng: np.random.Generator, fill: bool = True):
        self.autoencoder, self.rng = autoencoder, rng
        self.latents = torch.zeros(size, FRAMES, 4, 8, 8, dtype=torch.float16)
        self.cover = torch.zeros(size, FRAMES, 1, 8, 8, dtype=torch.float16)
        self.clips = sample_clips(np.random.default_rng(0), size)
        self.next = 0
        if fill:
            for start in range(0, size, CHUNK):
                self.refresh(min(CHUNK, size - start))

    def __len__(self) -> int:
        return len(self.latents)

    def refresh(self, count: int) -> None:
        """Replace the `count` oldest clips."""
        clips = sample_clips(self.rng, count)
        rows = (torch.arange(count) + self.next) % len(self)
        latents, cover = encode_clips(self.autoencoder, clips)
        self.latents[rows], self.cover[rows] = latents.half(), cover.half()
        for f in fields(ClipBatch):
            getattr(self.clips, f.name)[rows] = getattr(clips, f.name)
        self.next = int((rows[-1] + 1) % len(self))

    def state_dict(self) -> dict:
        clips = {f.name: getattr(self.clips, f.name) for f in fields(ClipBatch)}
        return {"latents": self.latents, "cover": self.cover, "clips": clips, "next": self.next}

    def load_state_dict(self, state: dict) -> None:
        self.latents.copy_(state["latents"])
        self.cover.copy_(state["cover"])
        for name, values in state["clips"].items():
            getattr(self.clips, name).copy_(values)
        self.next = state["next"]
