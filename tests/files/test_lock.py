"""A folder that one run at a time works in: other threads and processes are refused, a killed one lets go of it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unet_motion.files.lock import folder_lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from unet_motion.files.lock import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def from_another_thread(folder):
    found = []

    def take():
        try:
            with folder_lock(folder):
                found.append(None)
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_is_refused_as_long_as_one_holds_it_and_that_one_may_hold_it_twice(tmp_path):
    folder, beside = tmp_path / "run", tmp_path / "beside"
    folder.mkdir()
    with folder_lock(folder):
        with folder_lock(f"{tmp_path}/beside/../run"):
            pass
        refused = from_another_thread(folder)
        assert isinstance(refused, BlockingIOError) and str(folder) in str(refused)
        assert "another run works in this folder" in str(refused)
        assert from_another_thread(beside) is None
    assert from_another_thread(folder) is None
    with pytest.raises(KeyError), folder_lock(folder):
        raise KeyError
    assert from_another_thread(folder) is None
    assert os.listdir(folder) == []


def test_a_folder_that_was_not_there_stays_only_with_something_in_it(tmp_path):
    with folder_lock(tmp_path / "a" / "empty"):
        pass
    with folder_lock(tmp_path / "a" / "full"):
        (tmp_path / "a" / "full" / "file").touch()
    assert os.listdir(tmp_path / "a") == ["full"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_killed_process_lets_go(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="another run"), folder_lock(folder):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with folder_lock(folder):
        pass
