"""How much the picture moves under a motion LoRA, by its strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...bundled import BundledParts
from ...lora.apply import apply_motion_lora, remove_motion_lora
from .drawn_clips import COLOUR_NAMES, MOTIONS
from .evaluate import SampleSettings, sample_clips
from .judge import centroid_path
from .prompts import plain_prompt
from .shapes import SHAPES

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MEASURES = {"pan-left": ("right_px", 1.0), "pan-right": ("right_px", -1.0), "zoom-in": ("growth", 1.0),
            "spin": ("turn_degrees", 1.0)}  # fmt: skip
"""Name of a bundled motion LoRA -> the measure that it should raise, and its sign."""


def measure_motion(clips: Tensor) -> dict[str, Tensor]:
    """How clips (N, F, 3, H, W) in [0, 1] move from their first two frames to their last two.

    Returns:
        `right_px` and `down_px` (N,) pixels; `growth` (N,) of the radius, 2 where it doubles; `turn_degrees` (N,),
        clockwise, added up from frame to frame.
    """
    path, area = centroid_path(clips)
    moved = path[:, -2:].mean(1) - path[:, :2].mean(1)
    radius = area.clamp_min(1).sqrt()
    return {
        "right_px": moved[:, 0],
        "down_px": moved[:, 1],
        "growth": radius[:, -2:].mean(1) / radius[:, :2].mean(1),
        "turn_degrees": _turn(clips),
    }


def _turn(clips: Tensor) -> Tensor:
    """Every shape is shaded from its own top to its own bottom: the direction of the shading is the shape's angle."""
    background = clips.flatten(-2).median(-1).values[..., None, None]
    difference = (clips - background).abs().amax(2)
    inside = (difference > 0.25).double()
    # Brightness relative to the background's grey, by the strongest channel of the clip, whose shading is not cut off.
    light = clips.mean(2).double()
    height, width = light.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    design = torch.stack([torch.ones_like(x), x, y], dim=-1).flatten(0, 1)
    weight = inside.flatten(-2)[..., None]
    normal = design.T @ (weight * design) + 1e-6 * torch.eye(3, dtype=torch.float64)
    slope = torch.linalg.solve(normal, design.T @ (weight * light.flatten(-2)[..., None]))[..., 1:, 0]
    angle = torch.atan2(slope[..., 1], slope[..., 0])
    steps = torch.remainder(angle.diff(dim=1) + torch.pi, 2 * torch.pi) - torch.pi
    return torch.rad2deg(steps.sum(1)).float()


def lora_figures(
    parts: BundledParts,
    lora: str | Path,
    strengths: Sequence[float] = STRENGTHS,
    clips: int = 16,
    seed: int = 7000,
    settings: SampleSettings | None = None,
) -> list[dict[str, float]]:
    """Measures of clips of still shapes, a row for each strength; the same prompts and noise in all rows.

    Each measure is the mean over the clips, and with `_least` and `_most` behind its name that of single clips: a
    mean can hide clips that go the other way.
    """
    settings = settings or SampleSettings()
    rng = np.random.default_rng(seed)
    still = MOTIONS.index("still")
    prompts = [plain_prompt(int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOUR_NAMES))), still)
               for _ in range(clips)]  # fmt: skip
    seeds = list(range(seed, seed + clips))
    rows = []
    for strength in strengths:
        applied = apply_motion_lora(parts.unet, lora, strength)
        try:
            pictures = sample_clips(parts, prompts, seeds, replace(settings))
        finally:
            remove_motion_lora(parts.unet, applied)
        row = {"strength": strength}
        for name, values in measure_motion(pictures).items():
            found = {name: values.mean(), f"{name}_least": values.min(), f"{name}_most": values.max()}
            row.update({key: round(value.item(), 3) for key, value in found.items()})
        rows.append(row)
    return rows
