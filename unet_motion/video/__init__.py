"""Clips as files: what people look at, with the prompt, seed and settings inside."""

from .metadata import read_graphs, read_metadata
from .reading import FrameRange, frame_rate, read_frames
from .writing import (
    RESIZE_FILTERS,
    SUFFIXES,
    WITH_QUALITY,
    check_output_path,
    check_playback,
    check_resize,
    contact_sheet,
    resize,
    write_frames,
    write_video,
)

__all__ = [
    "FrameRange",
    "RESIZE_FILTERS",
    "SUFFIXES",
    "WITH_QUALITY",
    "check_output_path",
    "check_playback",
    "check_resize",
    "contact_sheet",
    "frame_rate",
    "read_frames",
    "read_graphs",
    "read_metadata",
    "resize",
    "write_frames",
    "write_video",
]
