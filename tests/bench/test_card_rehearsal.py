"""Every stage of a run on a card, tiny and without one: nothing may break first where a card is at hand."""

import json
import os
import sys

import pytest

from tests.comfyui.installations import find_installations
from unet_motion.bench.card.run import STAGES
from unet_motion.bench.card.sizes import REHEARSAL
from unet_motion.bench.card.step_times import LIMITS
from unet_motion.bench.kernel_cases import PAIRS
from unet_motion.ops.dispatch import KERNELS
from unet_motion.ops.tuning import PARAMETERS, read

SECONDS = 540
"""A rehearsal takes half of that on two cores that have nothing else to do."""


def comfyui():
    """A ComfyUI that runs in this Python, or None."""
    return next((found for found in find_installations() if found.problem() is None), None)


def start_beside(beside, item) -> None:
    command = [sys.executable, "-m", "unet_motion", "bench", "--card", "--rehearse", "--budget", str(SECONDS)]
    environ = dict(os.environ)
    if comfyui() is not None:
        environ = comfyui().environment()
        command += ["--comfyui", str(comfyui().path)]
    else:
        environ.pop("COMFYUI_PATH", None)
    beside.start("card", [*command, "--out", str(beside.folder / "card")], environ, SECONDS + 40)


@pytest.fixture(scope="module")
def stages(beside):
    run = beside.result("card")
    assert run.returncode == 0, run.stdout
    (file,) = (beside.folder / "card").glob("*-card.json")
    written = json.loads(file.read_text())
    assert "figures mean nothing" in written["about"]["rehearsal"]
    table = file.with_suffix(".md").read_text()
    assert table.startswith("# Rehearsal without a card") and all(f"## {i}. " in table for i in range(1, 9))
    assert [stage["name"] for stage in written["stages"]] == [stage.name for stage in STAGES]
    return {stage["name"]: stage for stage in written["stages"]}


@pytest.mark.timeout(900)
def test_each_stage_is_done_and_no_row_failed(stages):
    for name, stage in stages.items():
        if name == "comfyui" and comfyui() is None:
            assert stage["state"] == "left out" and "ComfyUI is not named" in stage["why"]
            continue
        assert stage["state"] == "done", stage
        assert stage["rows"], name
        for row in stage["rows"]:
            expected = "there is none here" if row["case"].startswith("KSampler, dynamic memory") else None
            if expected is not None:
                assert row["result"] == f"not measured: {expected}"
            elif name in ("kernels", "tuning") and "Triton is not installed" in row.get("result", ""):
                continue
            else:
                assert "result" not in row and "failed" not in row, row


def test_kernels_are_as_exact_as_their_twins_and_all_of_them_are_there(stages):
    pytest.importorskip("triton")
    rows = stages["kernels"]["rows"]
    assert len(rows) == 2 * 2 * len(PAIRS) and all(row["as exact"] is True for row in rows)
    to_float8 = [row for row in rows if row["case"].startswith("rounding to float8")]
    assert len(to_float8) == 4 and all(row["error"] == 0 for row in to_float8)
    assert all(0 < row["error"] < 1e-5 for row in rows if "float32" in row["case"] and row not in to_float8)
    timed = [row for row in rows if "ms" in row]
    assert all(("apart ms" in row) == row["case"].startswith("GEGLU inside the product") for row in timed)
    assert len(timed) == len(rows) / 2 and all(row["of the copy's rate"] > 0 for row in timed)


def test_all_ways_of_a_step_give_the_same_and_captured_ones_follow_what_changes(stages):
    rows = stages["steps"]["rows"]
    ways, changed, twice = rows[:-4], rows[-4:-1], rows[-1]
    names = [row["case"].split(",")[0] for row in ways]
    assert names[:3] == ["plain", "kernels", "kernels and graph"] and set(names[3:]) <= {"diffusers"}
    limit = min(LIMITS.values())
    assert all(row["error"] <= limit and row["ms"] > 0 for row in ways)
    assert ways[2]["captured"] is True
    assert [row["follows"] for row in (*changed, twice)] == [True] * 4 and twice["captured"] is True
    assert all(row["captured"] and row["error"] <= limit and row["changed by"] > 1e-3 for row in changed)


def test_the_profile_has_the_classes_of_each_way(stages):
    whole = [row for row in stages["profile"]["rows"] if "kind" not in row]
    for row in whole:
        assert row["ms"] > 0 and row["launches"] > 0 and row["gaps ms"] == 0
        kinds = ("attention", "convolution", "GEMM", "norm", "copy", "pointwise")
        assert sum(row.get(kind, 0) for kind in (*kinds, "layout")) == pytest.approx(row["ms"], rel=1e-3)
        assert all(row.get(kind, 0) > 0 for kind in kinds if row["case"] in ("plain", "diffusers")), row


def test_tuning_writes_a_file_that_the_kernels_can_read(stages, beside):
    pytest.importorskip("triton")
    assert {row["tried"] for row in stages["tuning"]["rows"]} == {2}
    assert len(PARAMETERS) == len(KERNELS)
    smaller = sum(kernel.measured for kernel in KERNELS.values()) * len(REHEARSAL.fewer)
    assert len(stages["tuning"]["rows"]) == len(KERNELS) + smaller > len(KERNELS)
    entries = read(beside.folder / "card" / "tuned-rehearsal.json")
    assert all(kernel in PARAMETERS and dtype == "float32" for kernel, dtype, _ in entries)


def test_comfyui_samples_the_same_with_the_packs_nodes(stages):
    if comfyui() is None:
        pytest.skip("no ComfyUI that runs in this Python")
    rows = stages["comfyui"]["rows"][:-1]
    assert len(rows) == 2 and rows[1]["error"] < 1e-5
    assert all(row["ms a step"] > 0 and row["estimated MiB"] > 0 for row in rows)


def test_the_bundled_models_clip_is_the_same(stages):
    cpu, device = stages["bundled"]["rows"]
    assert cpu["seconds"] > 0 and device["within rounding"] is True


def test_compiled_steps_give_the_same(stages):
    rows = stages["compiled"]["rows"]
    assert [row["case"] for row in rows] == ["diffusers compiled", "ours compiled"]
    assert all(row["error"] < 1e-5 and row["ms"] > 0 for row in rows)
