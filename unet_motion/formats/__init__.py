"""Files of weights: recognised by their content, read without a second copy, written whole or not at all.

``load_unet`` and ``load_motion_module`` read what others publish, ``inspect_file`` tells what a file is, and
``from_pretrained`` / ``save_pretrained`` are diffusers' folders.
"""

from __future__ import annotations

from .errors import BadWeightsError, FileFormatError, KeyMismatchError, UnsafeFileError, WrongKindError
from .inspect import FileInfo, inspect_file
from .motion_module import MotionModule, load_motion_module
from .positions import PositionOptions
from .pretrained import from_pretrained, save_pretrained
from .unet import load_unet

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
