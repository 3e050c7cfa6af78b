"""What is to be seen in a clip that a server made."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def frames_of(clip: bytes) -> np.ndarray:
    """float32 (F, H, W, 3) from 0 to 255."""
    with Image.open(io.BytesIO(clip)) as animation:
        frames = []
        for index in range(animation.n_frames):
            animation.seek(index)
            frames.append(np.asarray(animation.convert("RGB"), dtype=np.float32))
    return np.stack(frames)


def middle_of(frame: np.ndarray, colour: int) -> float:
    """x of the middle of what is much more of a colour (0 red, 1 green, 2 blue) than of the others."""
    rest = np.delete(frame, colour, axis=-1).max(axis=-1)
    shown = frame[..., colour] - rest > 60
    assert shown.sum() > 100
    return np.nonzero(shown)[1].mean()
