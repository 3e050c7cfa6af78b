"""Every kernel has a row: timed where it can run, here in Triton's interpreter, else with the reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unet_motion.bench import cases, kernel_cases
from unet_motion.bench.measure import Ceilings
from unet_motion.bench.report import cells
from unet_motion.ops.dispatch import KERNELS

CPU = torch.device("cpu")
INTERPRETED = """
import dataclasses, json, torch
from unet_motion.bench import cases, kernel_cases
from unet_motion.bench.measure import Ceilings
bench = cases.Bench(torch.device("cpu"), torch.float32, Ceilings(1e9, 1e9), rounds=1)
print(json.dumps([dataclasses.asdict(row) for row in kernel_cases.kernels(bench, 1, 2, 4, 64, inner=1)]))
"""


def test_every_kernel_has_a_row_that_says_why_it_did_not_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert {name for name, _ in kernel_cases.PAIRS.values()} == set(KERNELS)
    bench = cases.Bench(CPU, torch.float32, Ceilings(1e9, 1e9), rounds=1)
    rows = kernel_cases.kernels(bench, 2, 16, 64)
    assert len(rows) == len(kernel_cases.PAIRS)
    for row in rows:
        assert (
            row.ours is None
            and row.note.startswith("not measured: Triton ")
            and "not measured" in cells(row, bench.ceilings)
        )


def test_kernels_are_compared_with_their_twins_before_they_are_timed():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == len(kernel_cases.PAIRS)
    for row in rows:
        assert row["error"] < 1e-5 and row["ratio"][0] > 0 and row["note"].endswith("% of the copy's bandwidth"), row
