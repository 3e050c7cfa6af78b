"""The eight outlines of the drawn clips, as signed distance textures.

A texture holds, for local coordinates in [-EXTENT, EXTENT]^2 (y down, unit = the shape's radius), the distance to the
outline: negative inside. Scaling, turning and moving a shape is then one texture look-up per pixel, and a pixel's
coverage follows from the distance, which gives smooth edges without drawing at a higher resolution.
"""

from functools import lru_cache

import numpy as np
import torch

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
EXTENT = 1.5
TEXTURE_SIZE = 193


def outline(name: str) -> np.ndarray:
    """The corners (n, 2) of a shape, x right and y down; curves are cut into short edges."""
    if name == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.82
    if name == "triangle":
        return np.array([(0.0, -0.98), (0.98, 0.76), (-0.98, 0.76)])
    if name == "cross":
        arm, end = 0.32, 0.98
        return np.array(
            [
                (-arm, -end),
                (arm, -end),
                (arm, -arm),
                (end, -arm),
                (end, arm),
                (arm, arm),
                (arm, end),
                (-arm, end),
                (-arm, arm),
                (-end, arm),
                (-end, -arm),
                (-arm, -arm),
            ]
        )
    if name == "star":
        angle = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.08, 0.44)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.06], axis=1)
    if name == "heart":
        t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return np.stack([x, y - 2.5], axis=1) / 16.0
    raise ValueError(f"outline {name!r} is not a polygon; polygons are square, triangle, cross, star, heart")


def polygon_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance of points (m, 2) to a closed polygon (n, 2), negative inside (even-odd rule)."""
    start, end = corners, np.roll(corners, -1, axis=0)
    edge = end - start
    offset = points[:, None, :] - start[None]
    along = np.clip((offset * edge).sum(-1) / (edge * edge).sum(-1), 0.0, 1.0)
    distance = np.linalg.norm(offset - along[..., None] * edge, axis=-1).min(axis=1)
    y = points[:, 1:2]
    crosses = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(edge[:, 1] == 0, 1.0, edge[:, 1])
    crossing_x = start[:, 0] + (y - start[:, 1]) / rise * edge[:, 0]
    inside = (crosses & (points[:, 0:1] < crossing_x)).sum(axis=1) % 2 == 1
    return np.where(inside, -distance, distance)


def shape_distance(name: str, points: np.ndarray) -> np.ndarray:
    """Signed distance (m,) of local points (m, 2) to one of SHAPES."""
    radius = np.linalg.norm(points, axis=1)
    if name == "circle":
        return radius - 0.94
    if name == "ring":
        return np.abs(radius - 0.72) - 0.26
    if name == "moon":
        bite = np.linalg.norm(points - np.array([0.58, -0.12]), axis=1) - 0.72
        return np.maximum(radius - 1.0, -bite)
    return polygon_distance(points, outline(name))


@lru_cache(maxsize=1)
def distance_textures() -> torch.Tensor:
    """Float32 (len(SHAPES), 1, TEXTURE_SIZE, TEXTURE_SIZE), for `grid_sample(align_corners=True)`."""
    axis = np.linspace(-EXTENT, EXTENT, TEXTURE_SIZE)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    textures = [shape_distance(name, points).reshape(TEXTURE_SIZE, TEXTURE_SIZE) for name in SHAPES]
    return torch.from_numpy(np.stack(textures)).float().unsqueeze(1)


def local_coordinates(
    centre: torch.Tensor, radius: torch.Tensor, angle: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the pixels of square pictures lie in shapes' own coordinates.

    Args:
        centre: (N, 2) x, y in pixels.
        radius: (N,) in pixels.
        angle: (N,) in radians, clockwise on screen.
        size: side of the pictures in pixels.

    Returns:
        x and y, (N, size, size), in units of the radius.
    """
    axis = torch.arange(size) + 0.5
    x = (axis[None, None, :] - centre[:, 0, None, None]) / radius[:, None, None]
    y = (axis[None, :, None] - centre[:, 1, None, None]) / radius[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * x + sin * y, cos * y - sin * x
