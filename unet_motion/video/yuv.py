"""Pictures as the luma and chroma of video: ITU-R BT.709 in limited range, 4:2:0.

Players take video without tags for BT.601 or BT.709, each by rules of its own; a file that says what it is looks the
same in all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# ITU-R BT.709-6, items 3.2 to 3.4 and 4.6: the shares of red and blue in luma; steps and zeros of values of 8 bits.
RED, BLUE = 0.2126, 0.0722
LUMA_STEPS, LUMA_ZERO = 219, 16
CHROMA_STEPS, CHROMA_ZERO = 224, 128

# ISO/IEC 23091-2: 1 is BT.709 for primaries, transfer and matrix; FFmpeg calls limited range 1.
TAGS = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1}


def rgb_to_yuv420p(picture: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, 3) with even H and W, as uint8 (H * 3 / 2, W): its planes Y, U and V after each other.

    A sample of chroma stands where H.264 has it unless a file says otherwise: on the even columns, between two rows.
    Values are rounded to the nearest.
    """
    red, green, blue = np.moveaxis(picture.astype(np.float32) / 255, -1, 0)
    luma = RED * red + (1 - RED - BLUE) * green + BLUE * blue
    u, v = (_halved((colour - luma) / (2 * (1 - share))) for colour, share in ((blue, BLUE), (red, RED)))
    planes = [luma * LUMA_STEPS + LUMA_ZERO, u * CHROMA_STEPS + CHROMA_ZERO, v * CHROMA_STEPS + CHROMA_ZERO]
    values = np.rint(np.concatenate([plane.ravel() for plane in planes]))
    return values.astype(np.uint8).reshape(-1, picture.shape[1])


def tag(codec: Any) -> None:
    """Make PyAV's codec context of an encoder write into the file what the planes are."""
    for name, value in TAGS.items():
        setattr(codec, name, value)


def _halved(plane: np.ndarray) -> np.ndarray:
    """(H, W) -> (H / 2, W / 2): the mean of two rows; in a row 1-2-1 around each even column."""
    rows = (plane[0::2] + plane[1::2]) / 2
    before = np.concatenate([rows[:, :1], rows[:, 1:-1:2]], axis=1)
    return (before + 2 * rows[:, 0::2] + rows[:, 1::2]) / 4
