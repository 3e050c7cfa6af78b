"""Runs the check_*.py files in a process of their own: Triton decides at its import whether it interprets kernels."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def start_beside(beside, item) -> None:
    if importlib.util.find_spec("triton") is None or item.originalname != "test_kernels_against_their_twins":
        return
    environ = dict(os.environ)
    if not torch.cuda.is_available():
        environ["TRITON_INTERPRET"] = "1"
    checks = map(str, sorted(HERE.glob("check_*.py")))
    beside.start("kernels", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *checks], environ, 500)


def test_kernels_against_their_twins(beside):
    pytest.importorskip("triton", reason="Triton is not installed")
    run = beside.result("kernels")
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout and "skipped" not in run.stdout, run.stdout


def test_kernels_compile_for_a_gpu_that_is_not_at_hand(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    environ = {**os.environ, "PYTHONPATH": str(HERE.parents[2]), "TRITON_CACHE_DIR": str(tmp_path)}
    environ.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(HERE / "compile_kernels.py"), "80"]
    run = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    names = {line.split()[0] for line in run.stdout.splitlines()}
    assert len(names) == 14, names
    figures = [[int(figure) for figure in line.split()[1:]] for line in run.stdout.splitlines()]
    # A block of threads of compute capability 8.0 has 163 KiB.
    assert all(shared <= 163 * 1024 for shared, _, _ in figures)
    assert all(stack == 0 for _, _, stack in figures), run.stdout
