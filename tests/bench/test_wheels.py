"""Packages from a named folder of wheels, for machines that reach no index."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from unet_motion.bench.card.wheels import add_wheels

ROOT = Path(__file__).parents[2]


def wheel(folder, name, tags="py3-none-any", code="VALUE = 42\n", member=None):
    path = folder / f"{name}-1.2-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member or f"{name}/__init__.py", code)
        archive.writestr(f"{name}-1.2.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    return path


def test_what_is_not_installed_comes_from_the_wheels_here_and_in_processes_of_this_one(tmp_path):
    wheel(tmp_path, "unet_motion_wheel_of_a_test")
    wheel(tmp_path, "numpy", code="raise ImportError('an installed package is not replaced')\n")
    code = (
        "import subprocess, sys\nfrom pathlib import Path\nfrom unet_motion.bench.card.wheels import add_wheels\n"
        f"print(add_wheels(Path({str(tmp_path)!r})))\n"
        "import importlib.metadata, numpy, unet_motion_wheel_of_a_test as found\n"
        "print(found.VALUE, importlib.metadata.version('unet_motion_wheel_of_a_test'), flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import unet_motion_wheel_of_a_test as f; print(f.VALUE + 1)'])\n"
        "print(found.__file__)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, values, inside, place = done.stdout.splitlines()
    assert names == "['unet_motion_wheel_of_a_test']" and values == "42 1.2" and inside == "43"
    assert not Path(place).exists(), "what was unpacked is removed at the end"


def test_bad_wheels_are_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    cases = {
        "other": (lambda d: wheel(d, "absent_one", "cp27-cp27m-win32"), "is for cp27, expected py3 or cp3"),
        "broken": (lambda d: (d / "absent_one-1-py3-none-any.whl").write_bytes(b"no"), "is damaged: it is no zip"),
        "outside": (lambda d: wheel(d, "absent_one", member="../evil.py"), "which lies outside of it"),
        "empty": (lambda d: None, "has no \\*.whl in it"),
    }
    for name, (make, message) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder)
        with pytest.raises(ValueError, match=message):
            add_wheels(folder)
    with pytest.raises(ValueError, match="is no folder"):
        add_wheels(tmp_path / "nowhere")
    assert sys.path == before


def test_what_has_to_travel_to_a_card_is_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    files = [ROOT / name for name in os.fsdecode(listed.stdout).split("\0") if name]
    # diffusers' wheel has 6 MiB, einops' less than one.
    assert sum(path.stat().st_size for path in files if path.is_file()) <= (64 - 8) * 2**20
