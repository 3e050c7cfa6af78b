"""Drawn clips in which the camera moves: what the bundled model's motion LoRAs are trained on.

Whatever the shape does by itself, the picture also pans, zooms or spins; the caption names the shape and what it does
by itself, so that the camera's motion is all that the text does not explain.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...progress import track
from ...video import write_video
from .drawn_clips import MOTIONS, ClipBatch, draw, sample_clips, triples
from .prompts import plain_prompt

CAMERA = {
    "pan-left": "the camera turns left: everything moves to the right",
    "pan-right": "the camera turns right: everything moves to the left",
    "zoom-in": "the camera comes nearer: everything grows",
    "spin": "the picture turns clockwise",
}
# What a shape does by itself: nothing against the camera or along with it, where the path would leave the picture.
OWN = {
    "pan-left": ("still", "up", "down", "growing", "shrinking", "spinning"),
    "pan-right": ("still", "up", "down", "growing", "shrinking", "spinning"),
    "zoom-in": ("still", "left", "right", "up", "down", "spinning"),
    "spin": ("still", "left", "right", "up", "down", "growing", "shrinking"),
}
STILL_SHARE = 0.5


def sample_camera_clips(rng: np.random.Generator, name: str, count: int) -> ClipBatch:
    """Draw the parameters of `count` clips with a camera motion of `CAMERA`; half of the shapes are still themselves.

    Raises:
        ValueError: no such motion.
    """
    if name not in CAMERA:
        raise ValueError(f"the camera's motion is {name!r}, expected one of {', '.join(CAMERA)}.")
    every, still = triples(held_out=False), MOTIONS.index("still")
    own = [MOTIONS.index(motion) for motion in OWN[name] if motion != "still"]
    motion = np.where(rng.random(count) < STILL_SHARE, still, rng.choice(own, size=count))
    rows = [sample_clips(rng, 1, every[every[:, 2] == m]) for m in motion]
    clips = ClipBatch(**{key: torch.cat([getattr(row, key) for row in rows]) for key in vars(rows[0])})
    amount = lambda low, high: torch.from_numpy(rng.uniform(low, high, count)).float()  # noqa: E731
    if name.startswith("pan"):
        sign = 1.0 if name == "pan-left" else -1.0
        travel = clips.travel.clone()
        travel[:, 0] += sign * amount(24, 31)
        centre = clips.centre.clone()
        centre[:, 0] = 32 + (centre[:, 0] - 32).clamp(-2, 2)
        return replace(clips, travel=travel, centre=centre)
    if name == "zoom-in":
        return replace(clips, growth=clips.growth + amount(0.75, 1.0))
    return replace(clips, turn=clips.turn + np.pi * amount(0.9, 1.5))


def write_camera_clips(folder: Path, name: str, count: int, seed: int = 0, quiet: bool = True) -> None:
    """Write lossless WebPs and `metadata.jsonl`, a folder that `find_clips` reads.

    Raises:
        ValueError: no such motion, or no clips.
        FileExistsError: the folder is not empty.
    """
    if count < 1:
        raise ValueError(f"`count` is {count}, expected at least 1.")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, expected a new folder for the clips.")
    clips = sample_camera_clips(np.random.default_rng(seed), name, count)
    lines = []
    for row in track(range(count), description="drawing", enabled=not quiet):
        pictures, _ = draw(clips[row : row + 1])
        frames = (pictures[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
        file = f"{row:04}.webp"
        write_video(folder / file, frames)
        prompt = plain_prompt(*(int(getattr(clips, key)[row]) for key in ("shape", "colour", "motion")))
        lines.append(json.dumps({"file_name": file, "text": prompt}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
