"""Clips as files: what people look at, with the prompt, seed and settings inside."""

from .metadata import read_graphs, read_metadata
from .writing import (
    RESIZE_FILTERS,
    SUFFIXES,
    WITH_QUALITY,
    check_output_path,
    check_playback,
    check_resize,
    contact_sheet,
    resize,
    write_video,
)

__all__ = [
    "RESIZE_FILTERS",
    "SUFFIXES",
    "WITH_QUALITY",
    "check_output_path",
    "check_playback",
    "check_resize",
    "contact_sheet",
    "read_graphs",
    "read_metadata",
    "resize",
    "write_video",
]
