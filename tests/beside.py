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
    """Commands, each waiting for a core of its own, the one that it computes on; what they print is kept.

    Args:
        cores: how many run at the same time; by default one core is left to this process.

    ``folder`` is for what they write.
    """

    def __init__(self, cores: int | None = None):
        cores = cores or max(1, (os.cpu_count() or 1) - 1)
        self._pool = ThreadPoolExecutor(cores)
        self._jobs: dict[str, Future[subprocess.CompletedProcess]] = {}
        self._running: set[subprocess.Popen] = set()
        self._lock, self._closed = Lock(), False
        self.folder = Path(tempfile.mkdtemp(prefix="unet-motion-tests-"))

    def start(self, name: str, command: list[str], env: dict[str, str], seconds: float) -> None:
        """Let a command run as soon as there is a core for it, for at most ``seconds``; once for a name."""
        if name not in self._jobs:
            self._jobs[name] = self._pool.submit(self._run, command, env, seconds)

    def result(self, name: str) -> subprocess.CompletedProcess:
        """Wait for what was started under a name. Raises TimeoutExpired where it took too long."""
        return self._jobs[name].result()

    def close(self) -> None:
        """Stop what still runs, start nothing more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, command: list[str], env: dict[str, str], seconds: float) -> subprocess.CompletedProcess:
        with self._lock:
            if self._closed:
                raise RuntimeError("the tests have ended")
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={"OMP_NUM_THREADS": "1", **env},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        finally:
            self._running.discard(process)
        return subprocess.CompletedProcess(command, process.returncode, output)
