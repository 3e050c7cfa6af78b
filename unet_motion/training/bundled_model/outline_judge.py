"""The shape of each frame by fitting the eight outlines: nothing here is learned.

A frame's area and centre of mass fix size and place of each outline at each angle, so that only the angle is searched.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import EXTENT, SHAPES, TEXTURE_SIZE, distance_textures, local_coordinates

ANGLES = 24
FINE = 5
"""Angles of the second search, between two of the first, for the NEAREST outlines."""
NEAREST = 3
SIZES = (0.94, 1.0, 1.06)
"""Factors of the size that the area gives: a soft edge makes it inexact."""
SEEN = 0.35
"""Share of the strongest contrast to the background from which a pixel belongs to the shape."""


def frame_shapes(clips: Tensor) -> Tensor:
    """The outline that fits each frame best, of clips (N, F, 3, S, S) in [0, 1]: (N, F), indices into SHAPES.

    A frame that shows nothing is -1.
    """
    return torch.stack([_shapes_of(coverage(clip)) for clip in clips])


def coverage(frames: Tensor) -> Tensor:
    """How much of each pixel the shape covers, as far as colours tell: frames (F, 3, H, W) to (F, H, W) in [0, 1].

    The shape is shaded, so that its contrast to the background is halved from its top to its bottom.
    """
    background = frames.flatten(-2).median(-1).values[..., None, None]
    contrast = (frames - background).abs().amax(dim=1)
    strongest = contrast.flatten(1).quantile(0.98, dim=1)[:, None, None].clamp_min(0.05)
    return ((contrast / strongest - SEEN / 2) / (SEEN / 2)).clamp(0, 1)


@lru_cache(maxsize=1)
def _moments() -> tuple[Tensor, Tensor]:
    """Area (8,) and centre of mass (8, 2) of each outline, in its own unit."""
    inside = (distance_textures()[:, 0] < 0).double()
    axis = torch.linspace(-EXTENT, EXTENT, TEXTURE_SIZE, dtype=torch.float64)
    count = inside.sum((1, 2))
    centre = torch.stack([(inside.sum(1) * axis).sum(-1), (inside.sum(2) * axis).sum(-1)], dim=-1) / count[:, None]
    return (count * (2 * EXTENT / (TEXTURE_SIZE - 1)) ** 2).float(), centre.float()


def _shapes_of(covered: Tensor) -> Tensor:
    """(F, H, W) -> (F,)."""
    area = covered.sum((1, 2))
    axis = torch.arange(covered.shape[-1]) + 0.5
    place = torch.stack([(covered.sum(1) * axis).sum(-1), (covered.sum(2) * axis).sum(-1)], dim=-1)
    place = place / area.clamp_min(1)[:, None]
    step = 2 * math.pi / ANGLES
    found = []
    for frame, size, centre in zip(covered, area, place, strict=True):
        if size < 4:
            found.append(-1)
            continue
        every = torch.arange(len(SHAPES)).repeat_interleave(ANGLES)
        angles = (torch.arange(ANGLES) * step).repeat(len(SHAPES))
        errors = _errors(frame, size, centre, every, angles)
        best = errors.view(len(SHAPES), ANGLES).min(1)
        near = best.values.argsort()[:NEAREST]
        shape = near.repeat_interleave(FINE)
        start = best.indices[near].repeat_interleave(FINE) * step
        errors = _errors(frame, size, centre, shape, start + torch.linspace(-0.5, 0.5, FINE).repeat(NEAREST) * step)
        found.append(int(shape[errors.argmin()]))
    return torch.tensor(found)


def _errors(frame: Tensor, area: Tensor, place: Tensor, shape: Tensor, angle: Tensor) -> Tensor:
    """Least squared difference (n,) over SIZES between a frame (S, S) and outlines (n,) at angles (n,)."""
    areas, centres = _moments()
    cos, sin = angle.cos(), angle.sin()
    found = []
    for factor in SIZES:
        radius = (area / areas[shape]).sqrt() * factor
        x, y = (centres[shape] * radius[:, None]).unbind(-1)
        middle = place - torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
        found.append((_drawn(len(frame), shape, middle, radius, angle) - frame).square().sum((1, 2)))
    return torch.stack(found).amin(0)


def _drawn(size: int, shape: Tensor, middle: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
    """Coverage (n, size, size) of outlines."""
    grid = torch.stack(local_coordinates(middle, radius, angle, size), dim=-1) / EXTENT
    distance = F.grid_sample(distance_textures()[shape], grid, align_corners=True, padding_mode="border")[:, 0]
    return (0.5 - distance * radius[:, None, None]).clamp(0, 1)
