"""The checks in `inside/` run in a process of their own for each ComfyUI: its modules stay out of this process."""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

INSIDE = Path(__file__).with_name("inside")
SECONDS = 2400  # all checks of one version, on a machine that does other things too

pytestmark = pytest.mark.timeout(SECONDS + 60)


def _checks() -> list[str]:
    names = []
    for file in sorted(INSIDE.glob("check_*.py")):
        functions = (node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef))
        names += [f"{file.stem}::{name}" for name in functions if name.startswith("test_")]
    return names


def start_beside(beside, item) -> None:
    installation = item.callspec.params["installation"]
    if installation is None or item.get_closest_marker("skip"):
        return
    command = [
        sys.executable, "-m", "pytest", str(INSIDE), "--confcutdir", str(INSIDE), "-o", "python_files=check_*.py",
        "-o", f"pythonpath={INSIDE}", "-p", "no:cacheprovider", "--import-mode=importlib", "-q",
        "--junitxml", str(_report(beside, installation)),
    ]  # fmt: skip
    environment = {**installation.environment(), "UNET_MOTION_COMFYUI": str(installation.path)}
    beside.start(_name(installation), command, environment, SECONDS)


def _name(installation) -> str:
    return f"inside-{installation.version}"


def _report(beside, installation) -> Path:
    return beside.folder / f"{_name(installation)}.xml"


@pytest.fixture(scope="session")
def results(installation, beside) -> dict[str, list[str]]:
    """Name of each check -> its failures (empty: passed); checks that did not run are absent."""
    done, report = beside.result(_name(installation)), _report(beside, installation)
    assert report.is_file(), done.stdout[-8000:]
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname').split('.')[-1]}::{case.get('name').split('[')[0]}"
        bad = [f"{case.get('name')}\n{item.text}" for kind in ("failure", "error") for item in case.findall(kind)]
        found.setdefault(name, []).extend(bad)
    return found


@pytest.mark.parametrize("check", _checks())
def test_inside_comfyui(results, check):
    assert check in results, "the check did not run"
    assert not results[check], "\n\n".join(results[check])
