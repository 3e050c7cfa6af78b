"""What opens a file that somebody gives: each reader of the library, on a file or a folder."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from pathlib import Path

import torch

from unet_motion import (
    UNetMotionModel,
    apply_motion_lora,
    inspect_file,
    load_motion_module,
    load_unet,
    remove_motion_lora,
)
from unet_motion.files.description import describe_file
from unet_motion.formats.convert import FORMS, convert
from unet_motion.model.motion_adapter import MotionAdapter

from .models import UNET, save

torch.set_num_threads(1)
_PLACE = re.compile(r"(headers|pickles|configs)-\d+")


@lru_cache(1)
def small_unet() -> UNetMotionModel:
    return UNetMotionModel(**UNET).eval()


def apply_lora(path: Path) -> None:
    remove_motion_lora(small_unet(), apply_motion_lora(small_unet(), path))


def from_pretrained(path: Path) -> None:
    if path.is_dir():
        UNetMotionModel.from_pretrained(path)


def adapter_from_pretrained(path: Path) -> None:
    if path.is_dir():
        MotionAdapter.from_pretrained(path)


def describe(path: Path) -> None:
    inspect_file(path).to_dict()
    describe_file(path)


def convert_file(path: Path) -> None:
    # By the number of the file, whose folder has it: the same seed converts the same file to the same form anywhere.
    number = next(int(part.rpartition("-")[2]) for part in reversed(path.parts) if _PLACE.fullmatch(part))
    form = FORMS[number % len(FORMS)]
    out = path.parent / ("converted" if form == "folder" else "converted.safetensors")
    convert(path, out, form)


READERS = {
    "inspect": describe,
    "load_unet": load_unet,
    "load_motion_module": load_motion_module,
    "apply_motion_lora": apply_lora,
    "convert": convert_file,
    "from_pretrained": from_pretrained,
    "adapter_from_pretrained": adapter_from_pretrained,
}


def warm_up(folder: Path) -> None:
    """Import what the first use imports, so that no file pays for it."""
    place = folder / f"warm-{torch.randint(2**31, ()).item()}.safetensors"
    save(small_unet().state_dict(), place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (describe, load_unet, load_motion_module):
            read(place)
    place.unlink()
