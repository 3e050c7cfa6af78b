"""What long clips of the bundled model show: python tools/long_clip_figures.py [--clips 24] [--steps 20]

The judge of the bundled model names the colour of each frame, a fit of the outlines its shape; both are compared with
the prompt. Loops are measured by how far the last frame is from the first. The figures are in docs/long-clips.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unet_motion import MotionPipeline  # noqa: E402
from unet_motion.sampling import ContextWindows  # noqa: E402
from unet_motion.training.bundled_model.drawn_clips import COLOUR_NAMES, MOTIONS  # noqa: E402
from unet_motion.training.bundled_model.evaluate import evaluation_triples  # noqa: E402
from unet_motion.training.bundled_model.export import load_judge  # noqa: E402
from unet_motion.training.bundled_model.outline_judge import frame_shapes  # noqa: E402
from unet_motion.training.bundled_model.prompts import plain_prompt  # noqa: E402
from unet_motion.training.bundled_model.shapes import SHAPES  # noqa: E402

FRAMES, LOOP = 64, 24
STAYING = [MOTIONS.index(name) for name in ("spinning", "still")]
"""Motions that a clip of any length can go on with: the others leave the picture, or end."""

WAYS = {
    "static": {"schedule": "standard_static", "overlap": 8},
    "uniform": {"schedule": "standard_uniform", "overlap": 8},
}


def prompts(clips: int) -> np.ndarray:
    """(clips, 3): shape, colour and motion."""
    asked = evaluation_triples(clips, 1000)
    asked[:, 2] = np.resize(STAYING, clips)
    return asked


def shown_as_asked(pipe: MotionPipeline, judge: torch.nn.Module, steps: int, asked: np.ndarray, noise: str, way: dict):
    """Share of frames with the colour and the shape of the prompt, and the difference of each frame to the next."""
    hits, changes = [], []
    for seed, (shape, colour, motion) in enumerate(asked.tolist()):
        windows = ContextWindows(16, **way)
        clip = pipe(
            plain_prompt(shape, colour, motion), frames=FRAMES, steps=steps, seed=seed, windows=windows, noise=noise,
            progress=False,
        )  # fmt: skip
        frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            named = judge.frames(frames)[1].argmax(-1)
        hits.append(((named == colour) & (frame_shapes(frames[None])[0] == shape)).float().mean().item())
        changes.append(np.abs(np.diff(clip.astype(float), axis=0)).mean((1, 2, 3)))
        print(f"  a {COLOUR_NAMES[colour]} {SHAPES[shape]} {MOTIONS[motion]}: {hits[-1]:.0%}", flush=True)
    return float(np.mean(hits)), np.array(changes)


def seams(changes: np.ndarray) -> tuple[float, float]:
    """The median change where a window of the static schedule begins, and the 99th percentile of all others."""
    windows = ContextWindows(16, **WAYS["static"]).windows(FRAMES)
    at = sorted({window[0] - 1 for window in windows[1:]} | {window[-1] for window in windows[:-1]})
    others = np.delete(changes, at, axis=1)
    return float(np.median(changes[:, at])), float(np.percentile(others, 99))


def loops(pipe: MotionPipeline, steps: int, asked: np.ndarray) -> tuple[int, float]:
    """In how many clips the last frame is no further from the first than the median step; the median ratio."""
    ratios = []
    for seed, (shape, colour, _) in enumerate(asked.tolist()):
        windows = ContextWindows(16, 8, 1, "looped_uniform", closed_loop=True)
        prompt = plain_prompt(shape, colour, STAYING[0])
        clip = pipe(prompt, frames=LOOP, steps=steps, seed=seed, windows=windows, progress=False).astype(float)
        changes = np.abs(np.roll(clip, -1, axis=0) - clip).mean((1, 2, 3))
        ratios.append(changes[-1] / np.median(changes[:-1]))
    return sum(ratio <= 1 for ratio in ratios), float(np.median(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    pipe, judge, asked = MotionPipeline.bundled(), load_judge(), prompts(args.clips)
    closed, ratio = loops(pipe, args.steps, asked)
    print(f"loops of {LOOP} frames: {closed} of {args.clips} close within their median step, median ratio {ratio:.2f}")
    for name, way in WAYS.items():
        for noise in ("default", "free_noise"):
            share, changes = shown_as_asked(pipe, judge, args.steps, asked, noise, way)
            print(f"{FRAMES} frames, {name}, {noise}: colour and shape as asked in {share:.1%} of the frames")
            if name == "static":
                at, others = seams(changes)
                print(f"  at window ends the median change is {at:.2f}, the others' 99th percentile {others:.2f}")


if __name__ == "__main__":
    main()
