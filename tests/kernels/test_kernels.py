"""Runs the check_*.py files in a process of their own: Triton decides at its import whether it interprets kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def test_kernels_against_their_twins():
    pytest.importorskip("triton", reason="Triton is not installed")
    environ = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    if not torch.cuda.is_available():
        environ["TRITON_INTERPRET"] = "1"
    checks = map(str, sorted(HERE.glob("check_*.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *checks]
    run = subprocess.run(command, cwd=HERE.parent.parent, env=environ, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout and "skipped" not in run.stdout, run.stdout
