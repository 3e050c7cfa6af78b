"""New files in ComfyUI's output folder."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

import folder_paths

from ....unet_motion.files.atomic import check_place
from ....unet_motion.files.errors import shorten
from .paths import is_within


@dataclass(frozen=True)
class NewFile:
    """A file that is not there yet: its whole path, and its name and subfolder as the page asks for them."""

    path: str
    name: str
    subfolder: str


def new_output(prefix: str, suffix: str, width: int = 0, height: int = 0) -> NewFile:
    """The next file of a `filename_prefix`, with ComfyUI's placeholders and folders; it can be written.

    Raises:
        ValueError: the prefix leads out of the output folder, or is no name.
        OSError: the name is too long, or the folder cannot be written to.
    """
    output = folder_paths.get_output_directory()
    path = os.path.abspath(os.path.join(output, prefix))
    if "\0" in prefix or path == os.path.abspath(output) or not is_within(path, output):
        raise ValueError(f"`filename_prefix` is {prefix[:200]!r}, expected a name in ComfyUI's output folder.")
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
        file = f"{name}_{counter:05}_{suffix}"
        check_place(os.path.join(folder, file))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the error itself has the whole path in it
            raise OSError(error.errno, f"`filename_prefix` is {shorten(prefix)!r}: {error.strerror}") from None
        raise
    return NewFile(os.path.join(folder, file), file, subfolder)
