"""Finds the ComfyUI installations that the tests run against."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK = Path(os.environ.get("UNET_MOTION_PACK", ROOT))
NOT_FOUND = "no ComfyUI found: set COMFYUI_PATH to its folder (several: separated as in PATH)"


@dataclass(frozen=True)
class Installation:
    """A ComfyUI checkout."""

    path: Path
    version: str

    def missing_packages(self) -> list[str]:
        """Names from its requirements.txt that are not installed in this Python."""
        essential = (self.path / "requirements.txt").read_text().lower().split("#non essential")[0]
        names = [re.split(r"[^A-Za-z0-9_.-]", line.strip())[0] for line in essential.splitlines()]
        return [name for name in names if name and not _installed(name)]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _version(path: Path) -> str | None:
    file = path / "comfyui_version.py"
    found = re.search(r'__version__ = "([^"]+)"', file.read_text()) if file.is_file() else None
    return found.group(1) if found and (path / "main.py").is_file() else None


def _candidates() -> list[Path]:
    named = os.environ.get("COMFYUI_PATH")
    if named:
        return [Path(part) for part in named.split(os.pathsep) if part]
    # ROOT may be a link from custom_nodes or lie in it.
    around = [Path(os.path.abspath(ROOT)).parents[1], *sorted(Path.home().glob("ComfyUI*"))]
    return [path for path in around if path.is_dir()]


def find_installations() -> list[Installation]:
    """Named by COMFYUI_PATH; else the one that the pack lies in, and `ComfyUI*` in the home folder; newest first."""
    found = [Installation(path, version) for path in _candidates() if (version := _version(path))]
    unique = {item.version: item for item in reversed(found)}
    return sorted(unique.values(), key=lambda item: [int(part) for part in item.version.split(".")], reverse=True)
