"""Context windows as a picture: steps downwards, a line for each window, frames from left to right."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

BANDS = 64
"""Steps that are drawn at most."""

LEFT, TOP, GAP = 34, 16, 3
GROUND, INK = (24, 25, 30), (170, 172, 180)
WIDEST, TALLEST = 1024, 1600
FAINTEST = 0.3


def draw_windows(
    plans: Sequence[Sequence[tuple[Sequence[int], Sequence[float]]]], frames: int, widest: int = WIDEST,
    tallest: int = TALLEST,
) -> np.ndarray:  # fmt: skip
    """A picture of the windows of each step, uint8 (H, W, 3).

    A frame of a window is the brighter, the more of the average comes from there.

    Args:
        plans: for each step windows and their weights, as `ContextWindows.plan` gives them; of more than 64 steps the
            first ones are drawn.
        frames: of the clip.
        widest, tallest: pixels that the windows take, unless they need more with one pixel for each.
    """
    plans = plans[:BANDS]
    lines = sum(len(plan) for plan in plans)
    wide = max(1, min(16, widest // frames))
    tall = max(1, min(8, (tallest - GAP * len(plans)) // max(1, lines)))
    width, height = LEFT + wide * frames + GAP, TOP + GAP * len(plans) + tall * lines + GAP
    canvas = np.full((height, width, 3), GROUND, np.uint8)
    tops, top = [], TOP
    for plan in plans:
        tops.append(top)
        for number, (window, weights) in enumerate(plan):
            for frame, weight in zip(window, weights, strict=True):
                left = LEFT + frame * wide
                canvas[top : top + tall, left : left + max(1, wide - 1)] = _colour(number, weight)
            top += tall
        top += GAP
    return np.asarray(_labelled(Image.fromarray(canvas), tops, frames, wide))


def _colour(number: int, weight: float) -> tuple[int, ...]:
    # Neighbouring windows differ by the golden angle of the circle of hues.
    bright = FAINTEST + (1 - FAINTEST) * min(1.0, weight)
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.55, bright))


def _labelled(image: Image.Image, tops: Sequence[int], frames: int, wide: int) -> Image.Image:
    """With the numbers of steps from 1 at the left and those of frames from 0 above, as many as there is room for."""
    draw, free = ImageDraw.Draw(image), 0
    for step, top in enumerate(tops):
        if top >= free:
            draw.text((4, top - 2), str(step + 1), fill=INK)
            free = top + 12
    every = max(4, 4 * -(-32 // (4 * wide)))
    for frame in range(0, frames, every):
        draw.text((LEFT + frame * wide, 2), str(frame), fill=INK)
    return image
