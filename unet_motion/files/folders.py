"""Folders as diffusers lays them out: a ``config.json`` beside one file of weights or its shards with an index."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FileFormatError, KeyMismatchError, name_some, shorten
from .limits import MAX_JSON, parse_object, read_bounded
from .reading import TensorSource, open_shards, open_tensors

CONFIG_NAME = "config.json"
STEM = "diffusion_pytorch_model"
SAFETENSORS, PICKLE = "safetensors", "bin"


def weights_name(suffix: str = SAFETENSORS, variant: str | None = None, shard: tuple[int, int] | None = None) -> str:
    """``diffusion_pytorch_model[.variant][-00001-of-00002].safetensors``."""
    stem = f"{STEM}.{variant}" if variant else STEM
    number = f"-{shard[0]:05d}-of-{shard[1]:05d}" if shard else ""
    return f"{stem}{number}.{suffix}"


def index_name(suffix: str = SAFETENSORS, variant: str | None = None) -> str:
    """``diffusion_pytorch_model.safetensors.index[.variant].json``."""
    return f"{STEM}.{suffix}.index.{variant}.json" if variant else f"{STEM}.{suffix}.index.json"


def is_weights_of(name: str, suffix: str, variant: str | None) -> bool:
    """Whether a file name is one of those under which :func:`weights_name` and :func:`index_name` store a variant."""
    stem = re.escape(f"{STEM}.{variant}" if variant else STEM)
    shard = rf"{stem}(-\d{{5}}-of-\d{{5}})?\.{suffix}"
    return name == index_name(suffix, variant) or re.fullmatch(shard, name) is not None


@dataclass(frozen=True)
class Folder:
    """A folder with a configuration and weights that can be opened."""

    path: Path
    config: dict[str, Any]

    @property
    def class_name(self) -> str | None:
        return self.config.get("_class_name")

    def open(self, variant: str | None = None, suffixes: Iterable[str] = (SAFETENSORS, PICKLE)) -> TensorSource:
        """The weights, from the first of ``suffixes`` that is there.

        Raises:
            OSError: there are none.
        """
        suffixes = tuple(suffixes)
        for suffix in suffixes:
            index = self.path / index_name(suffix, variant)
            if index.is_file():
                return self._open_index(index)
            file = self.path / weights_name(suffix, variant)
            if file.is_file():
                return open_tensors(file)
        names = " or ".join(weights_name(suffix, variant) for suffix in suffixes)
        there = sorted(p.name for p in self.path.iterdir() if p.name.startswith(STEM)) if self.path.is_dir() else []
        raise OSError(f"{self.path}: no file named {names}, found {name_some(there) or 'no weights at all'}.")

    def _open_index(self, index: Path) -> TensorSource:
        content = read_json(index, 16 * MAX_JSON)
        listed = content.get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise FileFormatError(f"{index}: has no `weight_map` from tensor names to files.")
        names = sorted(set(listed.values()))
        for name in names:
            if Path(name).name != name or not name.isprintable() or len(name) > 200:
                raise FileFormatError(
                    f"{index}: lists the file {shorten(name)!a}, expected names of files in its own folder."
                )
            if not (self.path / name).is_file():
                raise OSError(
                    f"{self.path / name} does not exist, but {index.name} lists it among {len(names)} shards."
                )
        source = open_shards(self.path, [self.path / name for name in names])
        lost = sorted(listed.keys() - source.infos.keys())
        if lost:
            raise KeyMismatchError(f"{index}: lists tensors that its shards do not hold: {name_some(lost)}.")
        return source


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object, or FileFormatError."""
    return parse_object(read_bounded(path, limit), f"{path}:", limit)


def open_folder(path: str | Path, subfolder: str | None = None) -> Folder:
    """A folder that holds a ``config.json``.

    Raises:
        OSError: no such folder, or no ``config.json`` in it.
    """
    path = Path(path).expanduser()
    path = path / subfolder if subfolder else path
    if not path.is_dir():
        raise OSError(
            f"{path} is no folder on this computer; models are read from local folders only "
            "(the classes of unet_motion.diffusers read from the Hugging Face hub too)."
        )
    if not (path / CONFIG_NAME).is_file():
        raise OSError(f"{path}: no file named {CONFIG_NAME} in this folder.")
    return Folder(path, read_json(path / CONFIG_NAME))


def find_model_folder(path: Path, names: Iterable[str]) -> Path:
    """``path``, or the one of its ``names`` subfolders that has a ``config.json`` if it is a whole pipeline."""
    if (path / CONFIG_NAME).is_file():
        return path
    for name in names:
        if (path / name / CONFIG_NAME).is_file():
            return path / name
    return path


def config_beside(path: Path, class_name: str) -> dict[str, Any] | None:
    """The ``config.json`` next to a file of weights, if it is one of that class."""
    file = path.parent / CONFIG_NAME
    if not file.is_file():
        return None
    try:
        content = read_json(file)
    except FileFormatError:
        return None
    return content if content.get("_class_name") == class_name else None
