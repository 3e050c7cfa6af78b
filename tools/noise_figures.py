"""How FreeNoise and FreeInit act on the bundled model's clips, by its judge: the figures of docs/noise.md.

    python tools/noise_figures.py free-noise --clips 8 --steps 6
    python tools/noise_figures.py free-init --clips 12 --steps 8

Each prints one JSON object a setting, with the same prompts and seeds for all settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from unet_motion import ContextWindows, FreeInit, MotionPipeline
from unet_motion.training.bundled_model.drawn_clips import COLOUR_NAMES
from unet_motion.training.bundled_model.export import load_judge
from unet_motion.training.bundled_model.judge import centroid_path
from unet_motion.training.bundled_model.shapes import SHAPES

WINDOWS = ContextWindows(16, 4, schedule="standard_static")


def prompts(numbers: range, without: str) -> list[str]:
    """Prompts of still shapes that leave the colour or the shape to the noise, or nothing."""
    colours, shapes = list(COLOUR_NAMES), list(SHAPES)
    parts = [(colours[i % 8], shapes[(i // 8 + 3 * i) % 8]) for i in numbers]
    wanted = {"colour": "a {1} still", "shape": "a {0} shape still", "nothing": "a {0} {1} still"}[without]
    return [wanted.format(*part) for part in parts]


def draw(pipe: MotionPipeline, prompt: str, **settings) -> Tensor:
    """A clip (F, 3, H, W) in 0 to 1."""
    frames = pipe(prompt, progress=False, **settings)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def kept(judge, clips: list[Tensor]) -> dict[str, float]:
    """What stays as it is over long clips, each compared with its own first 16 frames."""
    colour, shape, drift = [], [], []
    for clip in clips:
        found = [logits.log_softmax(-1) for logits in judge.frames(clip)]
        for rows, shares in zip(found, (shape, colour), strict=True):
            shares.append((rows.argmax(-1) == rows[:16].mean(0).argmax(-1)).float().mean().item())
        path, _ = centroid_path(clip[None])
        drift.append((path[0] - path[0, :16].mean(0)).norm(dim=-1).mean().item())
    names = {"same_colour": colour, "same_shape": shape, "drift_px": drift}
    return {name: round(float(np.mean(values)), 3) for name, values in names.items()}


def flicker(clips: list[Tensor]) -> dict[str, float]:
    """How still shapes change from frame to frame, levels of 255; and how far single pixels stray over a clip."""
    steps = [(clip.diff(dim=0).abs().mean() * 255).item() for clip in clips]
    strays = [((clip - clip.mean(0)).abs().mean() * 255).item() for clip in clips]
    shakes = []
    for clip in clips:
        path, _ = centroid_path(clip[None])
        shakes.append(path[0].diff(dim=0).norm(dim=-1).mean().item())
    names = {"frame_difference": steps, "from_mean": strays, "shake_px": shakes}
    return {name: round(float(np.mean(values)), 3) for name, values in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("free-noise", "free-init"))
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="number of the first clip: its prompt and seed")
    parser.add_argument("--frames", type=int, default=128, help="of a clip in windows")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--without", choices=("colour", "shape", "nothing"), default="colour")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 3], help="of FreeInit")
    parser.add_argument("--spatial-stop", type=float, default=0.25, help="of FreeInit")
    args = parser.parse_args()
    pipe, judge = MotionPipeline.bundled(dtype=torch.float32), load_judge()
    numbers = range(args.first, args.first + args.clips)
    texts = prompts(numbers, args.without)
    common = {"steps": args.steps, "guidance": args.guidance}
    if args.what == "free-noise":
        kinds = ("default", "free_noise")
        settings = {kind: {"frames": args.frames, "windows": WINDOWS, "windows_at_once": 4, "noise": kind}
                    for kind in kinds}  # fmt: skip
    else:
        stop = args.spatial_stop
        settings = {f"{runs} runs, {stop}": {"free_init": FreeInit(runs, spatial_stop=stop)} for runs in args.runs}
    for name, more in settings.items():
        clips = [draw(pipe, text, seed=9000 + i, **common, **more) for i, text in zip(numbers, texts, strict=True)]
        figures = kept(judge, clips) | flicker(clips)
        print(json.dumps({"setting": name, "clips": args.clips, **common, **figures}), flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
