"""Processes beside the tests: one after the other, each once, and none after the end."""

import os
import subprocess
import sys
import time

import pytest

from tests.beside import ROOT, Beside


@pytest.fixture
def beside():
    made = Beside(cores=1)
    yield made
    made.close()


def start(beside, name, code, seconds=60):
    beside.start(name, [sys.executable, "-c", code], dict(os.environ), seconds)


def test_what_a_process_prints_and_how_it_ends_is_kept(beside):
    start(beside, "bad", "import os, sys; print(os.getcwd()); print('wrong', file=sys.stderr); sys.exit(3)")
    done = beside.result("bad")
    assert done.returncode == 3 and sorted(done.stdout.split()) == sorted([str(ROOT), "wrong"])


def test_a_name_runs_once_and_one_core_takes_one_process_at_a_time(beside):
    file = beside.folder / "lines"
    write = (
        f"import time; f = open({str(file)!r}, 'a', 1); print({{0}}, file=f); time.sleep(0.3); print(-{{0}}, file=f)"
    )
    for name, number in (("first", 1), ("second", 2), ("first", 3)):
        start(beside, name, write.format(number))
    assert beside.result("second").returncode == 0
    assert file.read_text().split() == ["1", "-1", "2", "-2"]


def test_a_process_that_takes_too_long_is_ended(beside):
    start(beside, "slow", "import time; time.sleep(100)", seconds=0.5)
    with pytest.raises(subprocess.TimeoutExpired):
        beside.result("slow")
    start(beside, "next", "print(1)")
    assert beside.result("next").stdout == "1\n"


def test_nothing_runs_after_the_end_and_what_was_left_behind_is_not_waited_for(beside, tmp_path):
    sign = beside.folder / "started"
    sleep = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    code = f"import pathlib, subprocess, sys, time; {sleep}; pathlib.Path({str(sign)!r}).touch(); time.sleep(100)"
    start(beside, "endless", code, seconds=200)
    start(beside, "waiting", f"open({str(tmp_path / 'never')!r}, 'w')")
    while not sign.exists():
        time.sleep(0.02)
    began = time.monotonic()
    beside.close()
    assert time.monotonic() - began < 50
    assert beside.result("endless").returncode < 0
    assert not (tmp_path / "never").exists() and not beside.folder.exists()
