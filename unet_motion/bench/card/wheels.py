"""Packages from a folder of wheels, for machines that reach no index: unpacked into a temporary folder and imported."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path


def add_wheels(folder: Path) -> list[str]:
    """Make the packages of a folder's wheels importable, here and in processes of this one; gives their names.

    What is installed already stays as it is.

    Raises:
        ValueError: there is no such folder or no wheel in it, or one is damaged or made for another Python.
    """
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not wheels:
        raise ValueError(f"--wheels: {folder} {'has no *.whl in it' if folder.is_dir() else 'is no folder'}.")
    absent = [wheel for wheel in wheels if not installed(wheel.name.split("-")[0])]
    for wheel in absent:
        check(wheel)
    if absent:
        target = tempfile.mkdtemp(prefix="unet-motion-wheels-")
        atexit.register(shutil.rmtree, target, ignore_errors=True)
        for wheel in absent:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        sys.path.insert(0, target)
        os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (target, os.environ.get("PYTHONPATH")) if p)
        importlib.invalidate_caches()
    return [wheel.name.split("-")[0] for wheel in absent]


def installed(project: str) -> bool:
    try:
        importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check(wheel: Path) -> None:
    """Raise ValueError unless a wheel can be unpacked for this Python."""
    parts = wheel.stem.split("-")
    python = parts[-3].split(".") if len(parts) >= 5 else []
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    if not {"py3", here} & set(python) and not (len(parts) >= 5 and "abi3" in parts[-2]):
        raise ValueError(f"--wheels: {wheel.name} is for {'.'.join(python) or 'no Python'}, expected py3 or {here}.")
    if not zipfile.is_zipfile(wheel):
        raise ValueError(f"--wheels: {wheel.name} is damaged: it is no zip archive.")
    with zipfile.ZipFile(wheel) as archive:
        outside = [name for name in archive.namelist() if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise ValueError(f"--wheels: {wheel.name} holds {outside[0]}, which lies outside of it.")
