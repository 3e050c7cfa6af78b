"""Noise that depends on the seed alone: drawn in float32 on the CPU, whatever the model runs on."""

from __future__ import annotations

import torch
from torch import Tensor


def seeded_generator(seed: int) -> torch.Generator:
    """A CPU generator for `seed`, 0 to 2**64 - 1."""
    if not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed!r}, expected a whole number from 0 to {2**64 - 1}")
    return torch.Generator().manual_seed(seed)


def frame_noise(
    generator: torch.Generator,
    frames: int,
    channels: int,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent normal noise for each frame, (frames, channels, height, width).

    For one seed these are the numbers that ComfyUI draws for a batch of `frames` latents.
    """
    return torch.randn(frames, channels, height, width, generator=generator).to(device, dtype)
