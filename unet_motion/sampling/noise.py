"""Noise that depends on the seed alone: drawn in float32 on the CPU, whatever the model runs on."""

from __future__ import annotations

import torch
from torch import Tensor

NOISES = ("default", "free_noise", "repeated", "constant", "seed_per_frame")


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


def free_noise(noise: Tensor, length: int, overlap: int, seed: int) -> Tensor:
    """FreeNoise (Qiu et al., 2023, https://arxiv.org/abs/2310.15169): later frames get earlier noise, shuffled.

    Every window of frames then starts from much the same noise in another order, so that a long clip keeps what it
    shows. For one seed the order is that of ComfyUI's context windows and of AnimateDiff-Evolved.

    Args:
        noise: (F, ...), left as it is.
        length, overlap: of the windows.
        seed: of the shuffling.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"`overlap` is {overlap}, expected 0 to {length - 1}: less than `length`.")
    noise, generator, hop = noise.clone(), seeded_generator(seed), length - overlap
    for place in range(length, len(noise), hop):
        count = min(hop, len(noise) - place)
        order = torch.randperm(count, generator=generator) + place - length
        noise[place : place + count] = noise[order.to(noise.device)]
    return noise


def clip_noise(
    kind: str, generator: torch.Generator, shape: tuple[int, int, int, int], seed: int, length: int, overlap: int
) -> Tensor:
    """Noise of a clip, float32 (F, C, h, w) on the CPU.

    Args:
        kind: one of `NOISES`. ``default``: independent for each frame. ``free_noise``: see that function.
            ``repeated``: that of the first ``length`` frames over and over. ``constant``: the first frame's for all.
            ``seed_per_frame``: frame i from ``seed`` + i, so that the first frames of a longer clip stay the same.
        generator: of the run, which draws what the other kinds start from.
        length, overlap: of the windows.
    """
    if kind not in NOISES:
        raise ValueError(f"noise is {kind!r}, expected one of {', '.join(NOISES)}")
    noise = frame_noise(generator, *shape)  # of each kind: a sampler's own noise must not be what it started from
    if kind == "seed_per_frame":
        frames = [frame_noise(seeded_generator((seed + i) % 2**64), 1, *shape[1:]) for i in range(shape[0])]
        return torch.cat(frames)
    if kind == "constant":
        return noise[:1].repeat(shape[0], 1, 1, 1)
    if kind == "free_noise":
        return free_noise(noise, length, overlap, seed)
    if kind == "repeated":
        return noise[torch.arange(shape[0]) % length]
    return noise
