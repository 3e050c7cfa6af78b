"""Finds the ComfyUI installations that the tests run against."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK = Path(os.environ.get("UNET_MOTION_PACK", ROOT))
# Its name in custom_nodes, which nothing may depend on.
PACK_FOLDER = PACK.name if "UNET_MOTION_PACK" in os.environ else "ComfyUI-UNetMotion"
NOT_FOUND = "no ComfyUI found: set COMFYUI_PATH to its folder (several: separated as in PATH)"


@dataclass(frozen=True)
class Installation:
    """A ComfyUI checkout; the packages that it pins, where `make test` put them, come before the installed ones."""

    path: Path
    version: str

    @property
    def packages(self) -> Path:
        return ROOT / ".venv-extras" / self.version

    def problem(self) -> str | None:
        """Why this ComfyUI cannot run in this Python, or None."""
        essential = (self.path / "requirements.txt").read_text().lower().split("#non essential")[0]
        wrong = [line for line in essential.split() if (line[0].isalpha() and not self._has(line))]
        if not wrong:
            return None
        return (
            f"ComfyUI {self.version} needs {' '.join(wrong)} "
            f"(`make test` puts them into .venv-extras/{self.version} with pip install --no-deps --target)"
        )

    def _has(self, requirement: str) -> bool:
        """Whether a package is there; only ComfyUI's own, which are pinned, must have the right version."""
        name, *_ = re.split(r"[^a-z0-9_.-]", requirement)
        found = {item.metadata["Name"].lower().replace("_", "-"): item.version for item in self._distributions(name)}
        if name.startswith("comfyui-"):
            return requirement == f"{name}=={found.get(name)}"
        return name.replace("_", "-") in found

    def _distributions(self, name: str) -> list:
        own = list(importlib.metadata.distributions(name=name, path=[str(self.packages)]))
        return own or list(importlib.metadata.distributions(name=name))

    def environment(self) -> dict[str, str]:
        """For a child process that runs this ComfyUI."""
        path = os.pathsep.join(part for part in (str(self.packages), os.environ.get("PYTHONPATH")) if part)
        # Passive: waiting threads leave the cores to others.
        return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}


def _version(path: Path) -> str | None:
    file = path / "comfyui_version.py"
    found = re.search(r'__version__ = "([^"]+)"', file.read_text()) if file.is_file() else None
    return found.group(1) if found and (path / "main.py").is_file() else None


def _candidates() -> list[Path]:
    named = os.environ.get("COMFYUI_PATH")
    if named is not None:
        return [Path(part) for part in named.split(os.pathsep) if part]
    # ROOT may be a link from custom_nodes or lie in it.
    around = Path(os.path.abspath(ROOT)).parents[1]
    return [around] if _version(around) else [path for path in sorted(Path.home().glob("ComfyUI*")) if path.is_dir()]


def find_installations() -> list[Installation]:
    """By COMFYUI_PATH (empty: none), else the one around the pack, else `ComfyUI*` in the home folder; newest first."""
    found = [Installation(path, version) for path in _candidates() if (version := _version(path))]
    unique = {item.version: item for item in reversed(found)}
    return sorted(unique.values(), key=lambda item: [int(part) for part in item.version.split(".")], reverse=True)
