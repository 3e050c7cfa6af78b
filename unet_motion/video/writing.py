"""Writing frames to files that people look at, with the prompt, seed and settings inside.

The kind follows the name: `.webp` and `.gif` are animations, `.mp4` needs the `video` extra (PyAV), `.png` is
a contact sheet with all frames in one picture, and a name without suffix is a folder of PNG frames. Where the
settings stand in a file, `metadata` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files.atomic import atomic_file, atomic_folder, check_name
from ..values import quoted
from .animations import encode_gif, encode_webp
from .metadata import FRAME_NAME, Labels, load_av, with_findable_exif
from .mp4 import write_mp4

SUFFIXES = (".webp", ".gif", ".mp4", ".png")
RESIZE_FILTERS = {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}
# A frame of a GIF lasts 655.35 s at most.
SLOWEST, FASTEST = 0.002, 1000
WITH_QUALITY = (".webp", ".mp4")


def check_output_path(path: str | os.PathLike) -> Path:
    """The path, after checking that `write_video` can write it: better before a long run than after it."""
    path = Path(path)
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}, "
            "or none for a folder of PNG frames"
        )
    if path.suffix.lower() == ".mp4":
        load_av()
    check_name(path)
    if path.suffix and path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected the name of a file to write")
    if not path.suffix:
        _check_replaceable(path)
    return path


def check_playback(fps: float, quality: int | None = None, suffix: str = ".webp") -> None:
    """Raise ValueError unless `write_video` can use these."""
    if not (isinstance(fps, Real) and SLOWEST <= fps <= FASTEST):
        raise ValueError(f"fps is {quoted(fps)}, expected {SLOWEST} to {FASTEST} frames a second")
    if quality is not None and not (isinstance(quality, Real) and 0 <= quality <= 100):
        raise ValueError(f"quality is {quoted(quality)}, expected 0 to 100, or none for the best")
    if quality is not None and suffix.lower() not in WITH_QUALITY:
        kind = f"a {suffix.lower()[1:].upper()}" if suffix else "a folder of PNG frames"
        raise ValueError(f"quality is {quality}, but {kind} has none: expected it for {' or '.join(WITH_QUALITY)} only")


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray,
    fps: float = 8.0,
    metadata: Mapping[str, Any] | None = None,
    loop: bool = True,
    quality: int | None = None,
    graphs: Mapping[str, Any] | None = None,
) -> Path:
    """Write frames, uint8 (F, H, W, 3), to `path` in the kind its suffix names, whole or not at all.

    `quality` (0 to 100) makes a WebP or MP4 smaller; without it a WebP is lossless, and of an MP4's loss nothing is to
    be seen but the halved resolution of its colours (BT.709, limited range). `metadata` must fit into JSON, and so
    must `graphs`: ComfyUI's `workflow` and `prompt`, which its page opens when the file is dropped on it (WebP,
    PNG, MP4; a GIF holds none, because the page reads none). The same arguments give the same bytes. Raises
    ValueError on another shape, dtype, suffix, rate, quality or graph, and ImportError for MP4 without PyAV.
    """
    path = check_output_path(path)
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 (F, height, width, 3)")
    check_playback(fps, quality, path.suffix)
    labels = Labels.of(metadata, graphs)
    suffix = path.suffix.lower()
    if not suffix:
        _write_folder(path, frames, labels)
    else:
        with atomic_file(path) as temporary:
            if suffix == ".webp":
                _write_webp(temporary, frames, fps, labels, loop, quality)
            elif suffix == ".gif":
                _write_gif(temporary, frames, fps, labels, loop)
            elif suffix == ".mp4":
                write_mp4(temporary, frames, fps, labels, quality)
            else:
                _write_png(temporary, contact_sheet(frames), labels)
    return path


def write_frames(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    fps: float = 8.0,
    metadata: Mapping[str, Any] | None = None,
    quality: int | None = None,
    graphs: Mapping[str, Any] | None = None,
) -> int:
    """:func:`write_video` for frames that come one by one, uint8 (H, W, 3) each, to an MP4; returns their number.

    No more than one frame is held at a time. An error on the way, also of what makes the frames, leaves no file.
    """
    path = check_output_path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path} is no MP4, expected a name that ends in .mp4")
    check_playback(fps, quality, path.suffix)
    labels = Labels.of(metadata, graphs)
    with atomic_file(path) as temporary:
        return write_mp4(temporary, frames, fps, labels, quality)


def check_resize(factor: int, method: str = "lanczos") -> None:
    """Raise ValueError unless `resize` can use these."""
    if method not in RESIZE_FILTERS:
        raise ValueError(f"filter {quoted(method)} is not known, expected one of {', '.join(RESIZE_FILTERS)}")
    if not 1 <= factor <= 64:
        raise ValueError(f"scale is {factor}, expected 1 to 64")


def resize(frames: np.ndarray, factor: int, method: str = "lanczos") -> np.ndarray:
    """Frames, uint8 (F, H, W, 3), enlarged `factor` times in both directions, for looking at small ones."""
    check_resize(factor, method)
    if factor == 1:
        return frames
    size = (frames.shape[2] * factor, frames.shape[1] * factor)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, RESIZE_FILTERS[method])) for f in frames])


def contact_sheet(frames: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """All frames, uint8 (F, H, W, 3), in rows on white: one picture, uint8 (H', W', 3)."""
    count, height, width, _ = frames.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    return sheet


def _write_webp(path: Path, frames: np.ndarray, fps: float, labels: Labels, loop: bool, quality: int | None) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    file = encode_webp(
        images, _durations(len(frames), fps, 1), loop=0 if loop else 1, exif=labels.exif(), lossless=quality is None,
        quality=80 if quality is None else quality,
    )  # fmt: skip
    path.write_bytes(with_findable_exif(file))


def _write_gif(path: Path, frames: np.ndarray, fps: float, labels: Labels, loop: bool) -> None:
    images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
    path.write_bytes(encode_gif(images, _durations(len(frames), fps, 10), loop, labels.comment()))


def _write_png(path: Path, picture: np.ndarray, labels: Labels) -> None:
    Image.fromarray(picture).save(path, "PNG", pnginfo=labels.chunks())


def _write_folder(path: Path, frames: np.ndarray, labels: Labels) -> None:
    with atomic_folder(path) as temporary:
        for i, frame in enumerate(frames):
            _write_png(temporary / FRAME_NAME.format(i), frame, labels)


def _check_replaceable(path: Path) -> None:
    """Raise unless `path` is free, or a folder that holds nothing but frames of an earlier run."""
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file, expected a folder, or a name that ends in .webp")
    if not path.is_dir():
        return
    for entry in path.iterdir():
        if not (entry.is_file() and entry.match("frame_*.png")):
            raise FileExistsError(f"{path} holds {entry.name}, expected a new folder or one with frames only")


def _durations(count: int, fps: float, unit: int) -> list[int]:
    """Units, of so many milliseconds, of each frame, such that the whole plays in count / fps seconds."""
    edges = [round(i * 1000 / fps / unit) for i in range(count + 1)]
    return [max(1, b - a) for a, b in zip(edges, edges[1:], strict=False)]
