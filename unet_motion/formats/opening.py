"""A file or folder opened, recognised, and its names brought into diffusers' form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.description import ADAPTER_KEY, described
from ..files.errors import WrongKindError, check_exists
from ..files.folders import config_beside, find_model_folder, open_folder
from ..files.reading import Stored, TensorSource, open_tensors
from .detect import KINDS, SELF_DESCRIBED, Detection, detect
from .names.animatediff import diffusers_names
from .names.keys import strip_prefix, unknown_parts
from .names.ldm import ldm_names

_CLASS_OF_KIND = {
    "unet2d": "UNet2DConditionModel",
    "unet_motion": "UNetMotionModel",
    "motion_adapter": "MotionAdapter",
}


@dataclass(frozen=True)
class Opened:
    """An opened file or folder.

    Attributes:
        path: what was asked for.
        source: its tensors.
        found: what it is.
        config: its ``config.json``, where one of the right class lies in the folder, or the one inside the file.
        names: diffusers names -> the file's names that stand for them (more than one for position tables).
        unknown: names inside the recognised part that have no diffusers name.
        beside: names outside the recognised part that belong to no known part of a checkpoint.
    """

    path: Path
    source: TensorSource
    found: Detection
    config: Mapping[str, Any] | None
    names: Mapping[str, list[str]]
    unknown: list[str]
    beside: list[str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by diffusers name; names without one keep their own."""
        shapes = {name: self.source.infos[keys[0]].shape for name, keys in self.names.items()}
        return shapes | {key: self.source.infos[key].shape for key in self.unknown}

    def stored(self, names: Iterable[str]) -> dict[str, list[Stored]]:
        """Where the values of these names are."""
        return {name: [Stored(self.source, key) for key in self.names.get(name, [name])] for name in names}

    def keys(self, names: Iterable[str]) -> list[str]:
        """The file's names of these names."""
        return [key for name in names if name in self.names for key in self.names[name]]

    def require(self, kinds: Iterable[str], expected: str) -> None:
        """Raise WrongKindError unless this is one of ``kinds``."""
        if self.found.kind not in kinds:
            verb = "is" if self.found.kind == "unknown" else "looks like"
            raise WrongKindError(f"{self.path}: {verb} {self.found.words}, expected {expected}.")


def open_model(path: str | Path, subfolders: Iterable[str]) -> Opened:
    """Open a file, a folder with a ``config.json``, or that one of ``subfolders`` of a whole pipeline's folder.

    Raises:
        OSError: it does not exist, or the folder lacks its files.
        FileFormatError: it is damaged.
    """
    path = check_exists(path)
    if path.is_dir():
        folder = open_folder(find_model_folder(path, subfolders))
        source, path = folder.open(), folder.path
        config: Mapping[str, Any] | None = folder.config
        found = detect(source.infos)
        if folder.config.get("_class_name") != _CLASS_OF_KIND.get(found.kind):
            _check_class(path, folder.config.get("_class_name"), found)
            config = None
    else:
        return open_source(path, open_tensors(path))
    return Opened(path, source, found, config, *_names(path, source, found))


def open_source(path: Path, source: TensorSource, config: Mapping[str, Any] | None = None) -> Opened:
    """:func:`open_model` of a file's tensors; ``config`` stands for the one inside it or beside it."""
    found = detect(source.infos)
    config = _config_of_file(path, source, found) if config is None else config
    return Opened(path, source, found, config, *_names(path, source, found))


def _config_of_file(path: Path, source: TensorSource, found: Detection) -> dict[str, Any] | None:
    """The configuration that a file of this project carries inside, or the ``config.json`` of its class beside it."""
    if found.kind in (*SELF_DESCRIBED, "unet2d"):
        inside = described(source, "unet")
        if inside is not None:
            return inside
    if found.kind in ("motion_module", "motion_adapter"):
        inside = described(source, ADAPTER_KEY)
        if inside is not None:
            return inside
    return config_beside(path, _CLASS_OF_KIND[found.kind]) if found.kind in _CLASS_OF_KIND else None


def _check_class(path: Path, class_name: Any, found: Detection) -> None:
    if class_name in _CLASS_OF_KIND.values():
        raise WrongKindError(
            f"{path}: its config.json is that of a {class_name}, but its weights look like {KINDS[found.kind]}."
        )


def _names(path: Path, source: TensorSource, found: Detection) -> tuple[dict[str, list[str]], list[str], list[str]]:
    inside, outside = strip_prefix(source.infos, found.prefix)
    beside = unknown_parts(outside)
    if not found.prefix:
        own = set(unknown_parts(inside))
        inside = {name: key for name, key in inside.items() if name in own}
    if found.kind in ("ldm_unet", "ldm_unet_motion"):
        translated, unknown = ldm_names(inside, path)
        return {ours: [inside[theirs]] for theirs, ours in translated.items()}, [inside[k] for k in unknown], beside
    if found.kind in ("motion_module", "animatediff_unet"):
        renamed = diffusers_names(inside)
        return {name: [inside[key] for key in keys] for name, keys in renamed.items()}, [], beside
    return {name: [key] for name, key in inside.items()}, [], beside
