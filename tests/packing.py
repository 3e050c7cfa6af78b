"""The archive that the ComfyUI registry hands out: by comfy-cli where it is installed, else by its rule."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HAS_COMFY_CLI = importlib.util.find_spec("comfy_cli") is not None
# What the registry calls the pack, and so the folder that it installs into.
FOLDER = "unet-motion"


def git(*arguments: str, cwd: Path = ROOT) -> list[str]:
    """The lines that a git command prints; the test is skipped outside a checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.split("\n") if line]


def comfy(*arguments: str, cwd: Path, home: Path) -> subprocess.CompletedProcess:
    """Run `comfy` without questions and without telemetry, its settings in a folder of their own."""
    kept = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home), "DO_NOT_TRACK": "1"}
    return subprocess.run(
        [sys.executable, "-m", "comfy_cli", "--skip-prompt", *arguments],
        cwd=cwd,
        env={**os.environ, **kept, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def names_by_the_rule() -> set[str]:
    """What git tracks, less what .comfyignore names."""
    tracked = {name for name in git("ls-files") if (ROOT / name).exists()}
    return tracked - set(git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"))


def copy_of_the_tree(folder: Path) -> Path:
    """The tracked files as they are now, in a repository of its own."""
    tree = folder / "tree"
    for name in git("ls-files"):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    git("init", "--quiet", cwd=tree)
    git("add", "--all", "--force", cwd=tree)
    return tree


def make_archive(folder: Path) -> Path:
    """`node.zip` as `comfy node pack` writes it."""
    if HAS_COMFY_CLI:
        tree = copy_of_the_tree(folder)
        done = comfy("node", "pack", cwd=tree, home=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return tree / "node.zip"
    path = folder / "node.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(names_by_the_rule()):
            archive.write(ROOT / name, name)
    return path
