"""The files of `unet-motion render`: which names a line may give them, and which of them are there already."""

from __future__ import annotations

import argparse
import json
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.errors import shorten

FAILURES = "failures.jsonl"
OUTPUTS = ("out", "sheet")
AGAIN = "expected a new name, or --overwrite"


class OccupiedError(ValueError):
    """Where a file would go stands another one, which --overwrite lets go."""


def outputs_of(args: argparse.Namespace) -> dict[str, Path]:
    """The names that a clip's files have inside the folder of all clips, by what the line calls them."""
    return {name: path for name in OUTPUTS if (path := getattr(args, name)) is not None}


def inside(args: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The arguments with their outputs in a folder."""
    moved = {name: folder / path for name, path in outputs_of(args).items()}
    return argparse.Namespace(**{**vars(args), **moved})


def check_names(args: argparse.Namespace) -> None:
    """Raise ValueError for a name that no file of a clip may have, wherever the folder is."""
    for name, path in outputs_of(args).items():
        found = f"`{name}` is {shorten(str(path))!r}, expected"
        if path.is_absolute() or path.drive or ".." in path.parts or not path.name:
            raise ValueError(f"{found} a name inside the folder that all jobs write to")
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in str(path)):
            raise ValueError(f"{found} a name without control characters")
        # What begins with a dot is hidden, and a suffix alone is none; systems drop what is at the end.
        if any(part != part.strip().strip(".") for part in path.parts):
            raise ValueError(f"{found} names that neither begin nor end with a space or a dot")
        if path.parts[0].casefold() == FAILURES:
            raise ValueError(f"{found} another name: clips that fail are written to {FAILURES}")


def check_places(args: argparse.Namespace, folder: Path) -> None:
    """Raise ValueError where the folder cannot have a clip's files."""
    for name, path in outputs_of(args).items():
        found = f"`{name}` is {shorten(str(path))!r}"
        for parent in list(path.parents)[:-1]:
            if os.path.lexists(folder / parent) and not (folder / parent).is_dir():
                raise ValueError(f"{found}, but {folder / parent} is no folder, expected another name")
        try:
            os.lstat(folder / path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ValueError(f"{found}: {error.strerror}, expected a name that the file system takes") from None
        if path.suffix and (folder / path).is_dir():
            raise ValueError(f"{found}, but {folder / path} is a folder, expected the name of a file")


def place_of(name: str, path: Path, folder: Path) -> Path:
    """Where a file of that name goes, behind links, as a path inside the folder.

    Raises:
        ValueError: a link leads outside.
    """
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(folder / path))
    if root not in real.parents:
        raise ValueError(f"`{name}` is {shorten(str(path))!r}, which a link leads to {real}, expected it in {folder}")
    return real.relative_to(root)


class Taken:
    """What the jobs so far write to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, int] = {}
        self.folders: dict[str, int] = {}

    def claim(self, line: int, args: argparse.Namespace) -> None:
        """Note what a line writes; a ValueError where another one writes it, or one of the two lies in the other."""
        named = outputs_of(args)
        places = {path: place_of(name, path, self.folder) for name, path in named.items()}
        if len(set(map(_spelled, places.values()))) < len(named):
            raise ValueError(f"`out` and `sheet` are both {shorten(str(args.out))}, expected two names")
        for path, place in places.items():
            spelled, *parents = map(_spelled, (place, *place.parents))
            other = next((self.files[part] for part in (spelled, *parents) if part in self.files), None)
            other = self.folders.get(spelled, other)
            if other is not None:
                raise ValueError(f"it writes {shorten(str(path))}, as line {other} does: expected an `out` of its own")
        for place in places.values():
            self.files[_spelled(place)] = line
            self.folders.update({_spelled(parent): line for parent in place.parents})


def _spelled(path: Path) -> str:
    return os.path.normcase(path)


def is_finished(args: argparse.Namespace, folder: Path) -> bool:
    """Whether all files of a clip are there.

    Raises:
        OccupiedError: one is there, but of other settings, or of another maker.
    """
    from .generate import describe

    wanted = json.loads(json.dumps(describe(args)))
    there = [_is_there(folder / path, args.frames, wanted) for path in outputs_of(args).values()]
    return all(there)


def _is_there(path: Path, frames: int, wanted: Mapping[str, Any]) -> bool:
    from ..video.metadata import FRAME_NAME

    if not path.exists():
        return False
    if path.suffix:
        _check_settings(path, wanted)
        return True
    found = sorted(file.name for file in path.iterdir())
    for name in found:
        _check_settings(path / name, wanted)
    named = sum(name in found for name in map(FRAME_NAME.format, range(min(frames, len(found)))))
    if len(found) > frames:
        raise OccupiedError(f"{path} holds {len(found)} pictures, but the line asks for {frames} frames: {AGAIN}")
    return named == frames


def _check_settings(path: Path, wanted: Mapping[str, Any]) -> None:
    from ..video import read_metadata

    try:
        found = read_metadata(path)
    except Exception:  # decoders of foreign files raise all kinds
        raise OccupiedError(f"{path} is there and holds no settings of this program, {AGAIN}") from None
    # What an earlier version of this program drew is finished too.
    for name in wanted:
        if name != "version" and found.get(name) != wanted[name]:
            there, asked = (shorten(str(settings.get(name))) for settings in (found, wanted))
            raise OccupiedError(f"{path} is there with {name} {there}, but the line asks for {asked}: {AGAIN}")
