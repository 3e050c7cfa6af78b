"""PIA: a first frame beside the noisy latents (Zhang et al., 2023, https://arxiv.org/abs/2312.13964).

The input layer of its motion modules reads nine channels: the noisy latent (4), how much each frame is to look like
the picture (1), and the picture's latent (4), the same for all frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PRESETS: dict[str, tuple[float, ...]] = {
    "small motion": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8),
    "medium motion": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75),
    "large motion": (1.0, 0.8, *(0.7,) * 8, 0.6, 0.5, 0.5),
    "small loop": (1.0, 0.9, *(0.85,) * 3, *(0.8,) * 7, 0.85, 0.85, 0.9, 1.0),
    "medium loop": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, *(0.75,) * 5, 0.78, 0.79, 0.8, 0.8, 1.0),
    "large loop": (1.0, 0.8, *(0.7,) * 4, 0.6, 0.5, 0.5, 0.6, *(0.7,) * 4, 0.8, 1.0),
    "small motion, new style": (0.5, 0.4, 0.4, 0.4, 0.35, 0.3),
    "medium motion, new style": (0.5, 0.4, 0.4, 0.4, 0.35, 0.35, 0.3, 0.25, 0.2),
    "large motion, new style": (0.5, 0.2),
}
"""The authors' influences by distance from the picture's frame; loops are written out for 16 frames."""

LOOPS = tuple(name for name in PRESETS if name.endswith("loop"))


def frame_influence(values: Sequence[float], frames: int, frame: int = 0, loop: bool = False) -> Tensor:
    """How much each frame is to look like the picture, float32 (F,).

    Args:
        values: by distance from ``frame``; the last one holds for all further frames.
        loop: spread the values over the whole clip instead.

    Raises:
        ValueError: no values, or a frame outside the clip.
    """
    if not len(values):
        raise ValueError("`influence` holds no numbers, expected at least one.")
    if not 0 <= frame < frames:
        raise ValueError(f"`frame` is {frame}, expected 0 to {frames - 1} in a clip of {frames} frames.")
    table = torch.tensor([float(value) for value in values], dtype=torch.float64)
    distance = (torch.arange(frames) - frame).abs().double()
    if loop and frames > 1:
        distance = distance * (len(values) - 1) / (frames - 1)
    low = distance.floor().long().clamp(max=len(values) - 1)
    high = (low + 1).clamp(max=len(values) - 1)
    return torch.lerp(table[low], table[high], (distance - low).clamp(0, 1)).float()


def pia_channels(picture: Tensor, influence: Tensor, batch: int = 1) -> Tensor:
    """The five channels that stand behind the noisy latent: (B*F, 5, H, W).

    Args:
        picture: scaled latent (1, 4, H, W), or one per clip (B, 4, H, W).
        influence: (F,).
    """
    frames = influence.numel()
    pictures = picture.expand(batch, -1, -1, -1).repeat_interleave(frames, 0)
    masks = influence.to(picture).repeat(batch)[:, None, None, None].expand(-1, 1, *picture.shape[-2:])
    return torch.cat([masks, pictures], dim=1)
