"""Clips drawn on the fly: one coloured shape, one motion, 16 frames of 64x64 pixels, and a prompt that says so.

Every shape is shaded from its own top (bright) to its own bottom (dark). The shading turns with the shape, so a
spinning circle or ring differs from a still one, and all 8 x 8 x 8 triples can be shown.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from .shapes import EXTENT, SHAPES, distance_textures, local_coordinates

COLOURS = {
    "red": (0.90, 0.12, 0.12),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.12, 0.72, 0.18),
    "cyan": (0.10, 0.85, 0.90),
    "blue": (0.14, 0.28, 0.95),
    "purple": (0.56, 0.16, 0.82),
    "pink": (1.00, 0.45, 0.75),
}
COLOUR_NAMES = tuple(COLOURS)
MOTIONS = ("left", "right", "up", "down", "growing", "shrinking", "spinning", "still")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
FRAMES = 16
SIZE = 64
CELL = 8
HELD_OUT_ONE_IN = 10


def is_held_out(shape: int, colour: int, motion: int) -> bool:
    """Whether a triple never occurs in training: one in ten, spread so that every word keeps most of its partners."""
    return (3 * shape + 7 * colour + motion) % HELD_OUT_ONE_IN == 0


def triples(held_out: bool) -> np.ndarray:
    """All (shape, colour, motion) index triples (n, 3) that are held out, or all that are not."""
    every = [(s, c, m) for s in range(len(SHAPES)) for c in range(len(COLOURS)) for m in range(len(MOTIONS))]
    return np.array([t for t in every if is_held_out(*t) == held_out])


@dataclass
class ClipBatch:
    """What is drawn: one row per clip. Lengths in pixels, angles in radians (clockwise on screen)."""

    shape: torch.Tensor  # (N,) index into SHAPES
    colour: torch.Tensor  # (N,) index into COLOUR_NAMES
    motion: torch.Tensor  # (N,) index into MOTIONS
    radius: torch.Tensor  # (N,) half the shape's extent
    centre: torch.Tensor  # (N, 2) x, y at the middle of the clip
    angle: torch.Tensor  # (N,) at the first frame
    travel: torch.Tensor  # (N, 2) path from the first to the last frame
    growth: torch.Tensor  # (N,) natural logarithm of last radius / first radius
    turn: torch.Tensor  # (N,) angle from the first to the last frame
    paint: torch.Tensor  # (N, 3) RGB in [0, 1]
    background: torch.Tensor  # (N, 3) RGB in [0, 1]

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows) -> "ClipBatch":
        return ClipBatch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def sample_clips(rng: np.random.Generator, count: int, chosen: np.ndarray | None = None) -> ClipBatch:
    """Draw the parameters of `count` clips.

    Args:
        rng: source of every random number; equal states give equal clips.
        count: number of clips.
        chosen: index triples (n, 3) to draw from; default: all that are not held out.
    """
    chosen = triples(held_out=False) if chosen is None else chosen
    picked = chosen[rng.integers(len(chosen), size=count)]
    shape, colour, motion = picked.T
    name = np.array(MOTIONS)[motion]
    u = lambda low, high, *size: rng.uniform(low, high, size=(count, *size))  # noqa: E731

    direction = np.array([DIRECTIONS.get(m, (0.0, 0.0)) for m in MOTIONS])[motion]
    moves = np.abs(direction).sum(1) > 0
    travel = direction * u(24, 31)[:, None]
    centre = SIZE / 2 + np.where(moves[:, None], u(-2.0, 2.0, 2), u(-5.0, 5.0, 2))
    growth = u(0.75, 1.0) * ((name == "growing") * 1.0 - (name == "shrinking") * 1.0)
    turn = u(1.15, 1.25) * np.pi * (name == "spinning")
    paint = np.array(list(COLOURS.values()))[colour] + u(-0.04, 0.04, 3)
    background = u(0.05, 0.28)[:, None] + u(-0.03, 0.03, 3)
    columns = {
        "radius": u(16.0, 19.5),
        "centre": centre,
        "angle": u(-0.2, 0.2),
        "travel": travel,
        "growth": growth,
        "turn": turn,
        "paint": paint.clip(0, 1),
        "background": background.clip(0, 1),
    }
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)).float() for k, v in columns.items()}
    index = {
        k: torch.from_numpy(v.copy()).long() for k, v in (("shape", shape), ("colour", colour), ("motion", motion))
    }
    return ClipBatch(**index, **tensors)


def trajectory(clips: ClipBatch, phase: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The closed form of every motion.

    Args:
        clips: N clips.
        phase: (F,) or (N, F), 0 at the first frame of the clip and 1 at the last.

    Returns:
        centre (N, F, 2) in pixels, radius (N, F) in pixels, angle (N, F) in radians.
    """
    phase = phase.expand(len(clips), phase.shape[-1])
    centre = clips.centre[:, None] + (phase[..., None] - 0.5) * clips.travel[:, None]
    # The geometric mean of the path is the clip's radius, less a little so that the largest still fits.
    exponent = (phase - 0.5) * clips.growth[:, None] - 0.15 * clips.growth[:, None].abs()
    radius = clips.radius[:, None] * exponent.exp()
    angle = clips.angle[:, None] + phase * clips.turn[:, None]
    return centre, radius, angle


def clip_phase(frames: int = FRAMES) -> torch.Tensor:
    """The phases (frames,) of a whole clip."""
    return torch.linspace(0, 1, frames)


def draw(clips: ClipBatch, phase: torch.Tensor | None = None, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw clips.

    Args:
        clips: N clips.
        phase: (F,) or (N, F) phases to draw; default the 16 of a clip.
        size: side of the picture in pixels (the drawing is not scaled, only cut off or extended).

    Returns:
        float32 pictures (N, F, 3, size, size) in [0, 1] and the shape's coverage (N, F, 1, size, size) in [0, 1].
    """
    phase = clip_phase() if phase is None else phase
    centre, radius, angle = (t.flatten(0, 1) for t in trajectory(clips, phase))
    frames = phase.shape[-1]
    local_x, local_y = local_coordinates(centre, radius, angle, size)
    grid = torch.stack([local_x, local_y], dim=-1) / EXTENT
    distance = F.grid_sample(
        distance_textures()[clips.shape],
        grid.view(len(clips), frames * size, size, 2),
        align_corners=True,
        padding_mode="border",
    ).view(-1, 1, size, size)
    coverage = (0.5 - distance * radius[:, None, None, None]).clamp(0, 1)
    shade = (0.85 - 0.30 * local_y).clamp(0.5, 1.2)[:, None]
    paint = (clips.paint.repeat_interleave(frames, 0)[:, :, None, None] * shade).clamp(0, 1)
    background = clips.background.repeat_interleave(frames, 0)[:, :, None, None]
    pictures = background + coverage * (paint - background)
    return pictures.unflatten(0, (-1, frames)), coverage.unflatten(0, (-1, frames))


def cell_weight(coverage: torch.Tensor, extra: float = 3.0) -> torch.Tensor:
    """Loss weight of latent cells: 1 + extra x the covered part of the cell. (N, F, 1, H, W) -> (N, F, 1, H/8, W/8)."""
    cells = F.avg_pool2d(coverage.flatten(0, 1), CELL).unflatten(0, coverage.shape[:2])
    return 1.0 + extra * cells
