"""Reading people's own clips: videos, GIFs, WebPs and folders of pictures, with their captions.

Frames are fitted to their resolution while they are read, so that a long video is never whole in memory at its own
size. A flipped clip moves the other way: leave flips off where captions name directions.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...files.errors import one_line, shorten
from ...values import quoted

VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v")
ANIMATIONS = (".gif", ".webp")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
_NO_DURATION = 0.1  # what browsers show a GIF frame for that names no duration


@dataclass(frozen=True)
class ClipOptions:
    """How clips are cut out of files.

    Attributes:
        frames: length of a clip.
        fps: frames a second that are taken; None takes every frame of the file, where GIFs and WebPs may hold equal
            frames as a single one that is shown for longer. Folders of pictures have no rate of their own and give
            every picture.
        stride: of the frames so taken, every `stride`-th is kept.
        buckets: (width, height) in pixels, multiples of 8; a file gets the one nearest to its own aspect ratio, is
            scaled to cover it and cut at its centre.
        flip: half of the drawn clips are mirrored, left for right.

    Raises:
        ValueError: a number out of its range.
    """

    frames: int = 16
    fps: float | None = None
    stride: int = 1
    buckets: tuple[tuple[int, int], ...] = ((512, 512),)
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}, expected at least 1.")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"`fps` is {self.fps}, expected more than 0 and at most 1000.")
        if not self.buckets or any(side < 8 or side % 8 for size in self.buckets for side in size):
            raise ValueError(f"`buckets` is {self.buckets}, expected (width, height) pairs in multiples of 8.")


@dataclass(frozen=True)
class ClipSource:
    """A file, or a folder of pictures.

    Attributes:
        path: of it.
        caption: "" where it has none.
        problem: a sentence that names the file whose caption cannot be read; None where it can.
    """

    path: Path
    caption: str
    problem: str | None = None


def find_clips(folder: str | os.PathLike) -> list[ClipSource]:
    """Every clip directly in `folder`, by name.

    `metadata.jsonl` has an object a line with `file_name` and `text`; else the caption of `walk.mp4`, or of the folder
    `walk`, is the text of `walk.txt`. Both are UTF-8. A clip whose caption is not has a `problem`, and where it cannot
    be read which clip a line names, so has every clip without another caption: none is taken for one without any.

    Raises:
        OSError: no such folder.
        ValueError: a line of `metadata.jsonl` that is UTF-8 and no such object, or names a clip that is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        expected = "expected one with videos, GIFs, WebPs or folders of frames"
        raise NotADirectoryError(one_line(f"{folder} is no folder, {expected}."))
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and _is_clip(p))
    captions, unread = _captions(folder / "metadata.jsonl", {p.name for p in paths})
    found = []
    for path in paths:
        text, problem = captions[path.name] if path.name in captions else _beside(path)
        found.append(ClipSource(path, text or "", problem or (unread if text is None else None)))
    return found


def read_clip(path: str | os.PathLike, options: ClipOptions) -> np.ndarray:
    """All frames that `options` takes of a file, uint8 (F, height, width, 3) in the size of its bucket.

    Raises:
        OSError, ValueError: the file cannot be read, or has fewer frames than a clip.
        ImportError: a video, without PyAV.
    """
    path = Path(path)
    kept: list[np.ndarray] = []
    size, taken = None, 0
    for begin, end, image in _shown(path):
        if options.fps is None or begin is None or end is None:
            times = 1
        else:  # moments k / fps at which this frame is on the screen
            times = max(0, math.ceil(end * options.fps - 1e-6) - math.ceil(begin * options.fps - 1e-6))
        fitted = None
        for _ in range(times):
            if taken % options.stride == 0:
                size = size or nearest_bucket(image.size, options.buckets)
                if fitted is None:
                    fitted = np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
                kept.append(fitted)
            taken += 1
    if len(kept) < options.frames:
        raise ValueError(f"{path}: gives {len(kept)} frames, expected at least the {options.frames} of a clip.")
    return np.stack(kept)


def nearest_bucket(size: tuple[int, int], buckets: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The (width, height) whose aspect ratio is nearest to that of `size`, the first of equals."""
    ratio = math.log(size[0] / size[1])
    return min(buckets, key=lambda bucket: abs(math.log(bucket[0] / bucket[1]) - ratio))


def pictures_of(folder: Path) -> list[Path]:
    """The frames in a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))


def _is_clip(path: Path) -> bool:
    if path.is_dir():
        return bool(pictures_of(path))
    return path.suffix.lower() in VIDEOS + ANIMATIONS


def _beside(path: Path) -> tuple[str | None, str | None]:
    """The text of the file beside a clip, or what is wrong with it; None and None where there is no such file."""
    file = path.with_name((path.name if path.is_dir() else path.stem) + ".txt")
    if not file.is_file():
        return None, None
    try:
        return file.read_text(encoding="utf-8-sig").strip(), None
    except UnicodeDecodeError as error:
        return "", f"{file}: is not UTF-8 at byte {error.start}, expected a caption in UTF-8."


def _captions(path: Path, names: set[str]) -> tuple[dict[str, tuple[str, str | None]], str | None]:
    """Clip -> its caption and what is wrong with that, and what is wrong with a line whose clip is not known."""
    captions: dict[str, tuple[str, str | None]] = {}
    unread = None
    data = path.read_bytes() if path.is_file() else b""
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, text = _row(line.decode("utf-8"))
        except UnicodeDecodeError:
            problem = f"{path}: line {number} is not UTF-8, expected an object with `file_name` and `text` in UTF-8."
            # What is not UTF-8 may be the caption alone.
            name, _ = _row(line.decode("utf-8", "surrogateescape"))
            if name in names:
                captions[name] = "", problem
            else:
                unread = unread or problem
            continue
        if name is None:
            short = shorten(line.decode("utf-8"), 80)
            raise ValueError(f"{path}: line {number} is {short!r}, expected an object with `file_name` and `text`.")
        if name not in names:
            raise ValueError(f"{path}: line {number} names {quoted(name)}, expected a clip in the same folder.")
        captions[name] = (text or "").strip(), None
    return captions, unread


def _row(line: str) -> tuple[str | None, str | None]:
    """`file_name` and `text` of a line of JSON; None and None where it has no such texts."""
    try:
        row = json.loads(line)
        name, text = row["file_name"], row["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None
    return (name, text) if isinstance(name, str) and isinstance(text, str) else (None, None)


def _shown(path: Path) -> Iterator[tuple[float | None, float | None, Image.Image]]:
    """Each frame in RGB with the seconds at which it appears and goes; no times for pictures."""
    if path.is_dir():
        first = None
        for picture in pictures_of(path):
            with Image.open(picture) as image:
                first = first or image.size
                if image.size != first:
                    raise ValueError(f"{picture}: is {image.size}, expected {first} as the first frame is.")
                yield None, None, image.convert("RGB")
    elif path.suffix.lower() in ANIMATIONS:
        yield from _animation(path)
    else:
        yield from _video(path)


def _animation(path: Path) -> Iterator[tuple[float, float, Image.Image]]:
    begin = 0.0
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frame = image.convert("RGB")  # reads the frame, and with it how long a WebP shows it
            end = begin + (image.info.get("duration", 0) / 1000 or _NO_DURATION)
            yield begin, end, frame
            begin = end


def _video(path: Path) -> Iterator[tuple[float, float, Image.Image]]:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{path}: videos need PyAV, which is not installed: `pip install av`.") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: holds no video, expected one.")
            rate = container.streams.video[0].average_rate
            gap = 1 / float(rate) if rate else _NO_DURATION
            start, before, held = None, 0.0, None
            for number, frame in enumerate(container.decode(video=0)):
                time = number * gap if frame.time is None else frame.time
                start = time if start is None else start
                if held is not None:
                    yield before, time - start, held
                before, held = time - start, frame.to_image()
            if held is not None:
                yield before, before + gap, held
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be read as a video ({error}).") from error
