"""Stages of a run on a card: each in its own time and try, with what there is written after each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unet_motion.bench.card import report, stages
from unet_motion.bench.card.sizes import REHEARSAL
from unet_motion.bench.card.stages import Card, Found, Stage, run_stages
from unet_motion.bench.cases import NotMeasured
from unet_motion.bench.processes import answer_of
from unet_motion.cli import main

ROOT = Path(__file__).parents[2]


def run(card, *works, budget=60.0, shares=None):
    """The results of stages named 0, 1, ..., and what was written after each one."""
    written = []
    made = [Stage(str(i), f"stage {i}", (shares or [1.0] * len(works))[i], work) for i, work in enumerate(works)]
    results = run_stages(card, made, budget, lambda found: written.append([(f.name, f.state) for f in found]))
    return results, written


@pytest.fixture
def card(tmp_path):
    return Card(torch.device("cpu"), REHEARSAL, tmp_path)


def one_row(card, found):
    found.add("a row", ms=1.5)


def test_a_stage_that_raises_keeps_its_rows_says_so_and_the_next_ones_run(card):
    def broken(card, found):
        found.add("before", ms=1.0)
        raise RuntimeError("CUDA error: an illegal memory access\nmore lines")

    def absent(card, found):
        raise NotMeasured("ComfyUI is not named")

    (first, second, third, fourth), written = run(card, one_row, broken, absent, one_row)
    assert [f.state for f in (first, second, third, fourth)] == ["done", "failed", "left out", "done"]
    assert second.rows == [{"case": "before", "ms": 1.0}]
    assert second.why == "RuntimeError: CUDA error: an illegal memory access" and third.why == "ComfyUI is not named"
    assert [len(w) for w in written] == [1, 2, 3, 4] and written[1] == [("0", "done"), ("1", "failed")]
    text = report.markdown({"device": "none"}, [first, second, third, fourth])
    assert "## 2. stage 1" in text and "failed in" in text and "an illegal memory access." in text
    assert "| before | 1 |" in text and "| a row | 1.5 |" in text


def test_a_row_that_raises_says_so_and_the_stage_goes_on(card):
    def rows(card, found):
        with found.row("one") as row:
            row["error"] = 0.5
            raise ValueError("no such layout")
        with found.row("two") as row:
            raise NotMeasured("Triton is not installed")
        with found.row("three") as row:
            row["ms"] = 2.0

    ((found,), _) = run(card, rows)
    assert found.state == "done" and found.rows == [
        {"case": "one", "error": 0.5, "result": "failed: ValueError: no such layout"},
        {"case": "two", "result": "not measured: Triton is not installed"},
        {"case": "three", "ms": 2.0},
    ]


def test_a_stage_is_stopped_when_its_time_is_over_even_inside_of_a_row(card):
    def endless(card, found):
        found.add("whole", ms=1.0)
        with found.row("half"):
            while True:
                time.sleep(0.01)

    start = time.monotonic()
    (first, second), _ = run(card, endless, one_row, budget=4.0)
    assert 1.9 < time.monotonic() - start < 3.9
    assert first.state == "out of time" and [row["case"] for row in first.rows] == ["whole"]
    assert second.state == "done"


def test_time_that_a_stage_leaves_is_the_next_ones_and_without_time_none_begins(card):
    left = []

    def note(card, found):
        left.append(card.left)

    run(card, note, note, note, budget=90.0, shares=[1, 1, 7])
    assert [round(seconds) for seconds in left] == [10, 20, 90]
    (first,), _ = run(card, note, budget=0.5)
    assert first.state == "left out" and "of the budget are left" in first.why and len(left) == 3
    began = time.monotonic() - 30
    (found,) = run_stages(card, [Stage("0", "late", 1, note)], 60.0, lambda _: None, began)
    assert found.state == "done" and round(left[-1]) == 30


def test_a_device_that_does_not_answer_is_not_asked_again_but_processes_of_their_own_are(card, monkeypatch):
    def broken(card, found):
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(stages, "answers", lambda device: False)
    made = [Stage("a", "a", 1, one_row), Stage("b", "b", 1, broken), Stage("c", "c", 1, one_row)]
    made.append(Stage("d", "d", 1, one_row, apart=True))
    results = run_stages(card, made, 60.0, lambda _: None)
    assert [found.state for found in results] == ["done", "failed", "left out", "done"]
    assert results[2].why == "the device does not answer any more since b"


KILLED = """
import sys, time
from pathlib import Path
import torch
from unet_motion.bench.card import report
from unet_motion.bench.card.sizes import REHEARSAL
from unet_motion.bench.card.stages import Card, Stage, run_stages
out = Path(sys.argv[1])
def quick(card, found):
    found.add("a row", ms=1.5)
def slow(card, found):
    found.add("unfinished", ms=1.0)
    (out / "slow").touch()
    time.sleep(60)
card = Card(torch.device("cpu"), REHEARSAL, out)
stages = [Stage("quick", "Quick", 1, quick), Stage("slow", "Slow", 1, slow)]
run_stages(card, stages, 120, lambda found: report.write(out / "x-card.md", {"device": "none"}, found))
"""


def test_a_killed_run_leaves_the_table_of_the_finished_stages(tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environ, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (tmp_path / "slow").exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (stage,) = json.loads((tmp_path / "x-card.json").read_text())["stages"]
    assert stage["name"] == "quick" and stage["state"] == "done" and stage["rows"] == [{"case": "a row", "ms": 1.5}]
    assert "| a row | 1.5 |" in (tmp_path / "x-card.md").read_text()


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    done = Found("a", "A", "done", rows=[{"case": "x", "as exact": False, "best": {"ROWS": 4}}])
    report.write(tmp_path / "x.md", {"device": "d"}, [done])
    before = (tmp_path / "x.md").read_bytes()
    assert b"| x | NO | ROWS 4 |" in before
    monkeypatch.setattr(report, "markdown", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        report.write(tmp_path / "x.md", {"device": "d"}, [done])
    assert (tmp_path / "x.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.md"]


def still_runs(process):
    """Whether the folder of /proc is that of a process that has not ended."""
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_is_ended_with_what_it_started_when_its_time_is_over(tmp_path, monkeypatch):
    (tmp_path / "slow_one.py").write_text(
        "import subprocess, sys, time, pathlib, json\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(json.loads(sys.argv[1])['note']).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "bad_one.py").write_text("import sys\nsys.exit('no such mode')\n")
    (tmp_path / "good_one.py").write_text(
        "import json, sys, pathlib\nasked = json.loads(sys.argv[1])\n"
        "pathlib.Path(asked['answer']).write_text(json.dumps({'twice': 2 * asked['number']}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert answer_of("good_one", {"number": 21}, 60) == {"twice": 42}
    with pytest.raises(NotMeasured, match="no such mode"):
        answer_of("bad_one", {}, 60)
    start = time.monotonic()
    with pytest.raises(NotMeasured, match="ended after 3 s"):
        answer_of("slow_one", {"note": str(tmp_path / "pid")}, 3)
    assert time.monotonic() - start < 30
    child = Path("/proc") / (tmp_path / "pid").read_text()
    if Path("/proc/self").exists():
        while still_runs(child):  # a signal is delivered in its own time
            assert time.monotonic() - start < 45, "what it started still runs"
            time.sleep(0.02)


def test_bad_arguments_are_refused_in_a_sentence(tmp_path, capsys):
    def refused(*arguments):
        assert main(["bench", *arguments]) == 2
        return capsys.readouterr().err

    assert "--rehearse goes with --card" in refused("--rehearse")
    assert "--wheels goes with --card" in refused("--wheels", str(tmp_path))
    assert "has no *.whl in it" in refused("--card", "--wheels", str(tmp_path))
    assert "stage 'magic' is unknown; expected some of machine, kernels" in refused("--card", "magic")
    assert "--budget is 0.0, expected seconds above 0" in refused("--card", "--budget", "0")
    if not torch.cuda.is_available():
        assert "there is no CUDA device; --rehearse" in refused("--card", "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert main(["bench", "--card", "--list"]) == 0
    assert capsys.readouterr().out.split()[0] == "machine"
