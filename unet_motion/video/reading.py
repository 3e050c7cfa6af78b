"""Frames of a video file, one after the other, so that a long one needs no more memory than a short one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from .metadata import load_av


@dataclass(frozen=True)
class FrameRange:
    """Which frames of a video are taken.

    Args:
        frames: how many; 0 is all to the end.
        skip_first: how many are left out before the first one.
        every_nth: 1: each frame, 2: every second one, ...
        start, duration: seconds of the part that the video is taken for; a duration of 0 goes to the end.

    Raises:
        ValueError: a number is negative, or `every_nth` is not at least 1.
    """

    frames: int = 0
    skip_first: int = 0
    every_nth: int = 1
    start: float = 0.0
    duration: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("frames", 0), ("skip_first", 0), ("every_nth", 1), ("start", 0), ("duration", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"`{name}` is {getattr(self, name)}, expected at least {least}.")

    @property
    def needed(self) -> int:
        """Frames that the video must have; 0 where any number will do."""
        return self.skip_first + (self.frames - 1) * self.every_nth + 1 if self.frames else 0

    def takes(self, number: int) -> bool:
        """Whether the frame of a number from 0 is taken."""
        return number >= self.skip_first and (number - self.skip_first) % self.every_nth == 0


def frame_rate(source: str | os.PathLike | BytesIO) -> float:
    """Frames a second of a video.

    Raises:
        ValueError: the file is no video, or says none.
    """
    with _opened(source) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError(f"{_name(source)} does not say how many frames a second it has.")
        return float(rate)


def read_frames(source: str | os.PathLike | BytesIO, wanted: FrameRange = FrameRange()) -> Iterator[np.ndarray]:
    """Frames of a video, each uint8 (H, W, 3) and upright.

    Args:
        source: a file, or its bytes.

    Raises:
        ValueError: the file is no video, cannot be decoded, or has fewer frames than are wanted. What the file says
            of itself is compared before the first frame.
        ImportError: PyAV is missing.
    """
    name = _name(source)
    with _opened(source) as (container, stream):
        if not (wanted.start or wanted.duration) and 0 < stream.frames < wanted.needed:
            raise ValueError(_too_short(name, stream.frames, wanted))
        seen, end = 0, 0.0
        for frame in _decoded(container, stream, wanted, name):
            if wanted.takes(seen):
                yield _upright(frame)
            seen, end = seen + 1, (frame.time or 0.0) + 1 / float(stream.average_rate or 1)
            if seen == wanted.needed:
                return
        if seen < wanted.needed or seen <= wanted.skip_first:
            raise ValueError(_too_short(name, seen, wanted))
        _check_end(container, stream, end, seen, wanted, name)


def _decoded(container: Any, stream: Any, wanted: FrameRange, name: str) -> Iterator[Any]:
    """The frames of the part that is wanted; an error names how far it came."""
    error, base = load_av().FFmpegError, stream.time_base
    first, last = int(wanted.start / base), int((wanted.start + wanted.duration) / base)
    if first:
        container.seek(first, stream=stream)
    frames, seen = container.decode(stream), 0
    while True:
        try:
            frame = next(frames, None)
        except error as problem:
            raise ValueError(
                f"{name} is damaged behind frame {seen} ({problem.strerror}), expected a whole video; with `frames` "
                f"{seen} only those before are read."
            ) from problem
        if frame is None or wanted.duration and frame.pts is not None and frame.pts >= last:
            return
        if frame.pts is None or frame.pts >= first:
            yield frame
            seen += 1


def _check_end(container: Any, stream: Any, end: float, seen: int, wanted: FrameRange, name: str) -> None:
    """Raise where a file that is read to its end stops a second before the time that it says."""
    if wanted.frames or wanted.duration:
        return
    promised = None
    if stream.duration:
        promised = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        promised = container.duration / load_av().time_base
    if promised is not None and end < promised - 1:
        raise ValueError(
            f"{name} ends early: {seen} frames, up to {end:.1f} s of {promised:.1f} s; with `frames` {seen} they are "
            "read all the same."
        )


def _too_short(name: str, frames: int, wanted: FrameRange) -> str:
    if not wanted.frames:
        return f"{name} has {frames} frames, expected more than `skip_first`, which is {wanted.skip_first}."
    every = f" every {wanted.every_nth}" if wanted.every_nth > 1 else ""
    asked = f"`frames` {wanted.frames}{every} after `skip_first` {wanted.skip_first}"
    return f"{name} has {frames} frames, expected at least {wanted.needed}: {asked}."


def _upright(frame: Any) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24")
    # Older PyAV does not tell; such files then stay as they lie.
    turned = round(getattr(frame, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(picture, turned)) if turned % 4 else picture


@contextmanager
def _opened(source: str | os.PathLike | BytesIO) -> Iterator[tuple[Any, Any]]:
    av, name = load_av(), _name(source)
    if isinstance(source, BytesIO):
        source.seek(0)
    elif not os.path.isfile(source):
        raise ValueError(f"{name} does not exist, expected a video file.")
    try:
        container = av.open(source if isinstance(source, BytesIO) else str(source))
    except av.error.FFmpegError as problem:
        raise ValueError(f"{name} is no video that can be read ({problem.strerror}).") from problem
    with container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise ValueError(f"{name} has no video in it that can be read.")
        yield container, container.streams.video[0]


def _name(source: str | os.PathLike | BytesIO) -> str:
    return "the video" if isinstance(source, BytesIO) else os.path.basename(os.fspath(source))
