"""Noise that depends on the seed alone: drawn in float32 on the CPU, whatever the model runs on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..values import is_finite, quoted
from .context_windows import ContextWindows

NOISES = ("default", "free_noise", "repeated", "constant", "seed_per_frame", "empty")

SEEDS = 2**64
APART = 0x9E3779B97F4A7C15
"""Between the seeds of what must not be the same noise: the odd step of SplitMix64 (Steele et al., 2014)."""


def seed_apart(seed: int, number: int) -> int:
    """The seed of the noise of a number from 0, where 0 has ``seed`` itself."""
    return (seed + number * APART) % SEEDS


def seeded_generator(seed: int) -> torch.Generator:
    """A CPU generator for `seed`, 0 to 2**64 - 1."""
    if not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise ValueError(f"seed is {quoted(seed)}, expected a whole number from 0 to {SEEDS - 1}")
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


def free_noise_of(noise: Tensor, windows: Sequence[Sequence[int]], seed: int) -> Tensor:
    """FreeNoise for windows of any schedule: each window starts from the noise of the first one in another order.

    The windows are taken in their order. Frames of a window that no window before it held get, shuffled, what of the
    first window's noise the window lacks, the noise that was used last in its place. For windows with a fixed overlap
    this is :func:`free_noise`.

    Args:
        noise: (F, ...), left as it is.
        windows: frame numbers, as `ContextWindows.windows` gives them; frames that lie in none keep their noise.
        seed: of the shuffling.
    """
    generator = seeded_generator(seed)
    base = list(windows[0]) if windows else []
    source = {frame: frame for frame in base}
    last_use = {frame: frame for frame in base}  # number of a noise -> the last frame that got it
    for window in windows[1:]:
        held = {source[frame] for frame in window if frame in source}
        lacking = sorted((number for number in base if number not in held), key=last_use.__getitem__)
        new = [frame for frame in window if frame not in source]
        own = new[len(lacking) :]  # of a window that is longer than the first
        base += own
        lacking += own
        last_use.update((frame, frame) for frame in own)
        order = torch.randperm(len(new), generator=generator).tolist() if new else []
        for frame, place in zip(new, order, strict=True):
            source[frame] = lacking[place]
            last_use[lacking[place]] = frame
    return noise[torch.tensor([source.get(frame, frame) for frame in range(len(noise))], device=noise.device).long()]


def arranged(noise: Tensor, kind: str, windows: ContextWindows, seed: int) -> Tensor:
    """Noise of a kind from independent noise.

    Args:
        noise: (F, ...), left as it is.
        kind: one of `NOISES`. ``default``: independent for each frame. ``free_noise``: see that function.
            ``repeated``: that of the first window's frames over and over. ``constant``: the first frame's for all.
            ``seed_per_frame``: frame i from ``seed`` + i, so that the first frames of a longer clip stay the same.
            ``empty``: zeros.
        windows: of the clip; what moves with the steps is taken from the first step.
        seed: of the shuffling and of ``seed_per_frame``.
    """
    check_noise(kind)
    frames = len(noise)
    if kind == "seed_per_frame":
        rows = [torch.randn(1, *noise.shape[1:], generator=seeded_generator((seed + i) % SEEDS)) for i in range(frames)]
        return torch.cat(rows).to(noise)
    if kind == "free_noise":
        return free_noise_of(noise, windows.windows(frames), seed)
    if kind == "repeated":
        return noise[torch.arange(frames, device=noise.device) % windows.length]
    if kind == "constant":
        return noise[:1].expand_as(noise).clone()
    return torch.zeros_like(noise) if kind == "empty" else noise


def check_noise(kind: str) -> None:
    """Raise ValueError for a kind of noise that there is not."""
    if kind not in NOISES:
        raise ValueError(f"noise is {quoted(kind)}, expected one of {', '.join(NOISES)}")


@dataclass(frozen=True)
class NoiseMix:
    """Several kinds of noise added up with weights, and scaled so that the variance stays 1.

    Each is drawn from a seed of its own, so that they are independent. ``constant`` with ``default`` is the mixed
    noise of PYoCo (Ge et al., 2023, https://arxiv.org/abs/2305.10474): a part that all frames share.

    Args:
        parts: kinds of `NOISES` with their weights; only the weights' ratios count.

    Raises:
        ValueError: no parts, an unknown kind, or weights that are negative, infinite or all zero.
    """

    parts: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        pairs = isinstance(self.parts, (list, tuple)) and all(isinstance(p, tuple) and len(p) == 2 for p in self.parts)
        if not pairs:
            raise ValueError(f"noise mix is {quoted(self.parts)}, expected pairs of a kind of noise and its weight")
        for kind, weight in self.parts:
            check_noise(kind)
            if not (is_finite(weight) and weight >= 0):
                found = f"the weight of noise {quoted(kind)} is {quoted(weight)}"
                raise ValueError(f"{found}, expected a number of at least 0")
        if not any(weight for _, weight in self.parts):
            raise ValueError(f"noise mix is {self.parts}, expected a kind of noise with a weight above 0")

    @classmethod
    def parse(cls, text: str) -> str | NoiseMix:
        """``KIND`` as it is, or ``KIND:WEIGHT,KIND:WEIGHT,...`` as a mix; a weight that is left out is 1."""
        if not set(":,") & set(text):
            check_noise(text)
            return text
        parts = []
        for part in text.split(","):
            kind, _, weight = part.partition(":")
            try:
                parts.append((kind.strip(), float(weight or 1)))
            except ValueError:
                raise ValueError(f"noise is {quoted(text)}, expected KIND:WEIGHT,KIND:WEIGHT with numbers") from None
        return cls(tuple(parts))


def mix_noise(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Independent noises of one shape added up with weights: sum of w n, divided by the root of the sum of w**2."""
    scale = math.sqrt(sum(weight**2 for _, weight in parts))
    total = torch.zeros_like(parts[0][0])
    for noise, weight in parts:
        total = total + noise * (weight / scale)
    return total


def clip_noise(
    kind: str | NoiseMix | Callable[[tuple[int, int, int, int]], Tensor], generator: torch.Generator,
    shape: tuple[int, int, int, int], seed: int, windows: ContextWindows,
) -> Tensor:  # fmt: skip
    """Noise of a clip, float32 (F, C, h, w) on the CPU.

    Args:
        kind: of `NOISES`, see :func:`arranged`, or a mix of them; or a function that gives the noise of a shape.
        generator: of the run, which draws what the other kinds start from.
        seed: of the run.
        windows: of the clip.
    """
    if callable(kind):
        return kind(shape)
    noise = frame_noise(generator, *shape)  # of each kind: a sampler's own noise must not be what it started from
    if isinstance(kind, str):
        return arranged(noise, kind, windows, seed)
    drawn = []
    for number, (name, weight) in enumerate(kind.parts):
        own = seed_apart(seed, number)
        start = frame_noise(seeded_generator(own), *shape) if number else noise
        drawn.append((arranged(start, name, windows, own), weight))
    return mix_noise(drawn)
