"""What long clips of the bundled model show: python tools/long_clip_figures.py [--clips 24] [--steps 20] [--only ...]

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

NOISES = ("default", "free_noise")


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
            windows_at_once=4, progress=False,
        )  # fmt: skip
        frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            named = judge.frames(frames)[1].argmax(-1)
        hits.append(((named == colour) & (frame_shapes(frames[None])[0] == shape)).float().mean().item())
        changes.append(np.abs(np.diff(clip.astype(float), axis=0)).mean((1, 2, 3)))
        print(f"  a {COLOUR_NAMES[colour]} {SHAPES[shape]} {MOTIONS[motion]}: {hits[-1]:.0%}", flush=True)
    return float(np.mean(hits)), np.array(changes)


def seams(changes: np.ndarray) -> tuple[float, float, float]:
    """The median change where static windows begin and end, and the 99th percentiles there and elsewhere."""
    windows = ContextWindows(16, **WAYS["static"]).windows(FRAMES)
    at = sorted({window[0] - 1 for window in windows[1:]} | {window[-1] for window in windows[:-1]})
    others = np.delete(changes, at, axis=1)
    return float(np.median(changes[:, at])), *(float(np.percentile(part, 99)) for part in (changes[:, at], others))


def loops(pipe: MotionPipeline, steps: int, asked: np.ndarray, closed: bool) -> list[tuple[float, float]]:
    """The change from a clip's last frame to its first, and its largest other step, both in its median step."""
    ratios = []
    for seed, (shape, colour, _) in enumerate(asked.tolist()):
        windows = ContextWindows(16, 8, 1, "looped_uniform" if closed else "standard_uniform", closed_loop=closed)
        prompt = plain_prompt(shape, colour, STAYING[0])
        given = {"frames": LOOP, "windows": windows, "windows_at_once": 4, "progress": False}
        clip = pipe(prompt, steps=steps, seed=seed, **given).astype(float)
        changes = np.abs(np.roll(clip, -1, axis=0) - clip).mean((1, 2, 3))
        middle = np.median(changes[:-1])
        ratios.append((float(changes[-1] / middle), float(changes[:-1].max() / middle)))
    return ratios


def say_loops(ratios: list[tuple[float, float]], kind: str) -> None:
    last, most = np.array(ratios).T
    print(
        f"{kind} of {LOOP} frames: from last to first {np.median(last):.2f} of the clip's median step (up to "
        f"{last.max():.2f}); at most that step in {np.mean(last <= 1):.0%} of {len(last)} clips, at most the largest "
        f"other step in {np.mean(last <= most):.0%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    choices = ["loops", *(f"{name}-{noise}" for name in WAYS for noise in NOISES)]
    parser.add_argument("--only", nargs="+", choices=choices, default=choices)
    args = parser.parse_args()
    pipe, judge, asked = MotionPipeline.bundled(dtype=torch.float32), load_judge(), prompts(args.clips)
    if "loops" in args.only:
        for kind, closed in (("loops", True), ("clips without a loop", False)):
            say_loops(loops(pipe, args.steps, asked, closed), kind)
    for name, noise in [choice.split("-") for choice in args.only if choice != "loops"]:
        share, changes = shown_as_asked(pipe, judge, args.steps, asked, noise, WAYS[name])
        print(f"{FRAMES} frames, {name}, {noise}: colour and shape as asked in {share:.1%} of the frames", flush=True)
        if name == "static":
            at, most, others = seams(changes)
            print(f"  changes at window ends: median {at:.2f}, 99th percentile {most:.2f}; elsewhere {others:.2f}")


if __name__ == "__main__":
    main()
