"""Work in a process of its own, which may be ended: it gets a request and leaves an answer, both in JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .cases import NotMeasured

ROOT = Path(__file__).resolve().parents[2]


def answer_of(module: str, request: dict[str, Any], seconds: float | None = None) -> Any:
    """What `python -m <module> <request>` writes into the file that the request names as ``answer``.

    The request's ``folder`` is one for the process's own files, removed afterwards.

    Raises:
        NotMeasured: it failed, with the last line that it printed, or was ended after that time (None: no limit).
    """
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", module, json.dumps({**request, "folder": folder, "answer": str(answer)})]
        # Into a file: a pipe would also wait for the processes that an ended one leaves behind.
        with (Path(folder) / "printed.txt").open("w+", encoding="utf-8", errors="replace") as printed:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdout=printed, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise NotMeasured(f"ended after {seconds:.0f} s") from None
            finally:
                end(process)
            printed.seek(0)
            lines = [line.strip() for line in printed.read().splitlines() if line.strip()]
        if process.returncode or not answer.is_file():
            raise NotMeasured(lines[-1][:300] if lines else f"exit status {process.returncode}")
        return json.loads(answer.read_text(encoding="utf-8"))


def end(process: subprocess.Popen) -> None:
    """End a process that leads a group of its own, and what it started."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    else:
        process.kill()
    process.wait()
