"""H.264 in an MP4, frame by frame."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from numbers import Rational
from pathlib import Path

import numpy as np

from .metadata import Labels, load_av
from .yuv import rgb_to_yuv420p, tag

BEST_RATE_FACTOR, WORST_RATE_FACTOR = 12, 51


def rate_of(fps: float) -> Fraction:
    """Frames a second as MP4 writes them; numpy's own floats are no rational numbers to Python."""
    exact = Fraction(fps) if isinstance(fps, Rational) else Fraction(float(fps))
    return exact.limit_denominator(1000)


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float, labels: Labels, quality: int | None) -> int:
    """Write frames, uint8 (H, W, 3) of one size, and return their number; no more than one is held at a time.

    Raises:
        ValueError: an odd width or height, frames of several sizes, or no frames.
    """
    metadata, options = labels.container()
    count, size = 0, None
    with load_av().open(str(path), "w", format="mp4", options=options) as container:
        container.metadata.update(metadata)
        stream = container.add_stream("libx264", rate=rate_of(fps))
        for frame in frames:
            if size is None:
                size = frame.shape[:2]
                check_size(*size)
                stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
                tag(stream.codec_context)
                # x264's macroblock tree reads memory behind small pictures with AVX-512: now and then another file.
                stream.options = {"crf": str(_rate_factor(quality)), "threads": "1", "mbtree": "0"}
            elif frame.shape[:2] != size:
                raise ValueError(f"frame {count} is {frame.shape[1]}x{frame.shape[0]}, expected {size[1]}x{size[0]}")
            picture = load_av().VideoFrame.from_ndarray(rgb_to_yuv420p(frame), format="yuv420p")
            container.mux(stream.encode(picture))
            count += 1
        if not count:
            raise ValueError("found 0 frames, expected at least 1")
        container.mux(stream.encode())
    return count


def check_size(height: int, width: int) -> None:
    """Raise ValueError for a size that H.264 with halved colours cannot have."""
    if height % 2 or width % 2:
        raise ValueError(f"`frames` are {width}x{height}, expected an even width and height for MP4")


def _rate_factor(quality: int | None) -> float:
    """x264's constant rate factor: 20 for a quality of 80, which is usual, and 12 without one."""
    lost = 0 if quality is None else 1 - quality / 100
    return BEST_RATE_FACTOR + lost * (WORST_RATE_FACTOR - BEST_RATE_FACTOR)
