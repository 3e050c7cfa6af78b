"""Files of weights: recognised by their content, read without a second copy, written whole or not at all.

``load_unet`` and ``load_motion_module`` read what others publish, ``inspect_file`` tells what a file is, and
``from_pretrained`` / ``save_pretrained`` are diffusers' folders.
"""

from __future__ import annotations

from ..files.errors import BadWeightsError, FileFormatError, KeyMismatchError, UnsafeFileError, WrongKindError
from ..files.pretrained import from_pretrained, save_pretrained
from .inspect import FileInfo, inspect_file
from .load_motion_module import load_motion_module
from .load_unet import load_unet
from .motion_weights import MotionModule
from .positions import PositionOptions

__all__ = [
    "BadWeightsError",
    "FileFormatError",
    "FileInfo",
    "KeyMismatchError",
    "MotionModule",
    "PositionOptions",
    "UnsafeFileError",
    "WrongKindError",
    "from_pretrained",
    "inspect_file",
    "load_motion_module",
    "load_unet",
    "save_pretrained",
]
