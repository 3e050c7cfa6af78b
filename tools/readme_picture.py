"""Make the README's picture with the bundled model: assets/demo.webp.

python tools/readme_picture.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unet_motion import MotionPipeline  # noqa: E402
from unet_motion.video import write_video  # noqa: E402

PROMPTS = (
    "a red star moving left",
    "a blue circle growing",
    "a green heart moving up",
    "a yellow moon spinning",
    "a purple ring shrinking",
    "an orange square moving right",
    "a pink cross moving down",
    "a cyan triangle still",
)
COLUMNS = 4
ENLARGED = 3
CAPTION = 22
SEED = 7


def main() -> None:
    pipeline = MotionPipeline.bundled(dtype=torch.float32)
    clips = [captioned(pipeline(prompt, seed=SEED), prompt) for prompt in PROMPTS]
    rows = [np.concatenate(clips[i : i + COLUMNS], axis=2) for i in range(0, len(clips), COLUMNS)]
    frames = np.concatenate(rows, axis=1)
    settings = {"prompts": PROMPTS, "seed": SEED, "model": "bundled"}
    graphs = {"workflow": json.loads((ROOT / "example_workflows" / "first_animation.json").read_text())}
    write_video(ROOT / "assets" / "demo.webp", frames, fps=8, metadata=settings, quality=90, graphs=graphs)


def captioned(frames: np.ndarray, text: str) -> np.ndarray:
    """A clip, uint8 (F, H, W, 3), enlarged, with its prompt below on white and a margin around it."""
    font = ImageFont.load_default(13)
    made = []
    for frame in frames:
        size = frame.shape[1] * ENLARGED
        page = Image.new("RGB", (size + 8, size + CAPTION + 8), "white")
        page.paste(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS), (4, 4))
        ImageDraw.Draw(page).text((page.width / 2, size + 6), text, font=font, fill="black", anchor="ma")
        made.append(np.asarray(page))
    return np.stack(made)


if __name__ == "__main__":
    main()
