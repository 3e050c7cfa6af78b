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
REACH = 1.15
"""How far any outline goes from its centre of mass, over the root of its area, at the largest of SIZES."""
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
    angles, between = torch.arange(ANGLES) * step, torch.linspace(-0.5, 0.5, FINE) * step
    found = []
    for frame, size, centre in zip(covered, area, place, strict=True):
        if size < 4:
            found.append(-1)
            continue
        frame, centre = _around(frame, centre, REACH * size.sqrt().item() + 2)
        every = torch.arange(len(SHAPES))
        best = _errors(frame, size, centre, every, angles.expand(len(SHAPES), -1)).min(1)
        near = best.values.argsort()[:NEAREST]
        errors = _errors(frame, size, centre, near, angles[best.indices[near]][:, None] + between)
        found.append(int(near[errors.argmin() // FINE]))
    return torch.tensor(found)


def _around(frame: Tensor, centre: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """The square part of a frame (S, S) up to ``reach`` pixels from a place x, y, and that place within it."""
    side = min(len(frame), math.ceil(2 * reach))
    first = (centre - side / 2).round().clamp(0, len(frame) - side).long()
    left, top = first.tolist()
    return frame[top : top + side, left : left + side], centre - first


def _errors(frame: Tensor, area: Tensor, place: Tensor, shapes: Tensor, angles: Tensor) -> Tensor:
    """Least squared difference (k, m) over SIZES between a frame (S, S) and outlines (k,), each at m angles (k, m)."""
    areas, centres = _moments()
    cos, sin = angles.cos(), angles.sin()
    found = []
    for factor in SIZES:
        radius = (area / areas[shapes]).sqrt() * factor
        x, y = (centres[shapes] * radius[:, None]).T[..., None]
        middle = place - torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
        drawn = _drawn(len(frame), shapes, middle, radius[:, None].expand_as(angles), angles)
        found.append((drawn - frame).square().sum((2, 3)))
    return torch.stack(found).amin(0)


def _drawn(size: int, shapes: Tensor, middle: Tensor, radius: Tensor, angles: Tensor) -> Tensor:
    """Coverage (k, m, size, size) of outlines (k,) at places (k, m, 2) and angles (k, m); a texture is read once."""
    places = local_coordinates(middle.flatten(0, 1), radius.flatten(), angles.flatten(), size)
    grid = torch.stack(places, dim=-1).view(len(shapes), -1, size, 2).div_(EXTENT)
    distance = F.grid_sample(distance_textures()[shapes], grid, align_corners=True, padding_mode="border")
    return (0.5 - distance.view(*angles.shape, size, size) * radius[..., None, None]).clamp(0, 1)
