"""The bundled model's clip on a card, beside the CPU's."""

from __future__ import annotations

import time

import numpy as np
import torch

from ... import ForwardOptions, MotionPipeline
from ...kernels import use
from .networks import MOTION
from .stages import Card, Found

PROMPT = "a red star moving left"


def stage(card: Card, found: Found) -> None:
    """The CPU's clip, then the same on the device in each way; both compute in float32."""
    sizes = card.sizes
    given = dict(seed=7, frames=sizes.clip_frames, steps=sizes.clip_steps, progress=False)
    # Convolutions in TF32, cuDNN's default, would be off by whole levels of grey.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected, took = clip(MotionPipeline.bundled(dtype=torch.float32), **given)
        found.add("CPU", seconds=took)
        pipe = MotionPipeline.bundled(device=str(card.device), dtype=torch.float32)
        ways = {"device": ("eager", "auto")} | ({"device, kernels": ("triton", "triton")} if card.on_gpu else {})
        for way, (mode, processor) in ways.items():
            with found.row(way) as row, use(mode):
                options = ForwardOptions(attn_processors={MOTION: processor})
                clip(pipe, options=options, **given)
                frames, row["seconds"] = clip(pipe, options=options, **given)
                row.update(beside(frames, expected))


def clip(pipe: MotionPipeline, **given) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    return pipe(PROMPT, **given), time.perf_counter() - start


def beside(frames: np.ndarray, expected: np.ndarray) -> dict[str, object]:
    """How far two clips are apart, in levels of grey; where numbers lie between two, rounding may take either."""
    apart = np.abs(frames.astype(int) - expected.astype(int))
    return {
        "largest difference": int(apart.max()),
        "pixels that differ": f"{100 * (apart > 0).mean():.3f} %",
        "within rounding": bool(apart.max() <= 1),
    }
