"""Long checks in processes of their own, beside the tests of this process, which mostly keep one core busy."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).parents[1]


class Beside:
    """Commands that run with one thread each, as many at a time as there are cores for them.

    Args:
        cores: how many that is; by default all, as the test that comes next only waits for them.

    ``folder`` is for what they write.
    """

    def __init__(self, cores: int | None = None):
        self._pool = ThreadPoolExecutor(cores or os.cpu_count() or 1)
        self._jobs: dict[str, Future[subprocess.CompletedProcess]] = {}
        self._running: set[subprocess.Popen] = set()
        self._lock, self._closed = Lock(), False
        self.folder = Path(tempfile.mkdtemp(prefix="unet-motion-tests-"))

    def start(self, name: str, command: list[str], env: dict[str, str], seconds: float) -> None:
        """Let a command run as soon as there is a core for it, for at most ``seconds``; once for a name."""
        if name not in self._jobs:
            self._jobs[name] = self._pool.submit(self._run, name, command, env, seconds)

    def result(self, name: str) -> subprocess.CompletedProcess:
        """Wait for what was started under a name; ``stdout`` is all that it printed.

        Raises TimeoutExpired where it took too long.
        """
        return self._jobs[name].result()

    def close(self) -> None:
        """Stop what still runs, start nothing more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, command: list[str], env: dict[str, str], seconds: float) -> subprocess.CompletedProcess:
        # Into a file: a pipe would also have to wait for the processes that a killed one leaves behind.
        with (self.folder / f"{name}.txt").open("w+", encoding="utf-8", errors="replace") as printed:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the tests have ended")
                environ = {"OMP_NUM_THREADS": "1", **env}
                process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=printed, stderr=subprocess.STDOUT)
                self._running.add(process)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                with self._lock:
                    self._running.discard(process)
            printed.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, printed.read())
