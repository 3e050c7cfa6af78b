"""Runs readers on generated files in a process of its own, and measures what each file cost.

The process is ended when a file takes far too long, so that a hang is a finding and not the end of the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS, BYTES, LENGTH = 1.0, 50 * 2**20, 600
"""What one reader may take of time, of memory above ten times the file's size, and of characters in its error."""
PATIENCE = 20.0


@dataclass
class Finding:
    """A file that a reader did not handle as it should."""

    case: str
    reader: str
    fault: str

    def __str__(self) -> str:
        return f"{self.case} {self.reader}: {self.fault}"


@dataclass
class Outcome:
    """What came of one run: files tried, how many a reader took and refused, and the faults."""

    tried: int
    results: Counter
    findings: list[Finding]


def check(generator: str, number: int, seed: str, folder: Path, patience: float = PATIENCE) -> Outcome:
    """Try `number` files of a generator; the same seed gives the same files."""
    results, findings, start = Counter(), [], 0
    while start < number:
        mine, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(theirs, generator, start, number, seed, str(folder)), daemon=True
        )
        process.start()
        theirs.close()
        start = _collect(mine, process, patience, results, findings)
        process.join()
    return Outcome(number, results, findings)


def _collect(pipe, process, patience: float, results: Counter, findings: list[Finding]) -> int:
    """Take results until the process ends; gives the number of the next file."""
    case, reader, number = "start", "", 0
    while True:
        try:
            message = pipe.recv() if pipe.poll(patience if reader not in ("", "generator") else 300) else ("hang",)
        except EOFError:
            message = ("end",)
        if message[0] == "begin":
            _, case, reader, number = message
        elif message[0] == "done":
            results[message[1]] += 1
            findings.extend(Finding(case, reader, fault) for fault in message[2])
        elif message[0] == "finished":
            return 2**62
        else:
            process.kill()
            findings.append(
                Finding(case, reader, f"hangs for {patience:g} seconds" if message[0] == "hang" else "dies")
            )
            return number + 1


def _work(pipe, generator: str, start: int, number: int, seed: str, folder: str) -> None:
    from . import generators, readers

    resource.setrlimit(resource.RLIMIT_DATA, (6 * 2**30,) * 2)  # a fault that takes more becomes a MemoryError
    warnings.simplefilter("ignore")
    make = generators.GENERATORS[generator]
    run = readers.READERS
    readers.warm_up(Path(folder))
    for i in range(start, number):
        case, place = f"{generator} {seed}:{i}", Path(folder) / f"{generator}-{i}"
        place.mkdir(exist_ok=True)
        pipe.send(("begin", case, "generator", i))
        path = make(random.Random(f"{seed}:{i}"), place)
        for name, read in run.items():
            pipe.send(("begin", case, name, i))
            pipe.send(("done", *_measured(read, path)))
        shutil.rmtree(place)
    pipe.send(("finished",))


def _measured(read: Callable[[Path], object], path: Path) -> tuple[str, list[str]]:
    """How a reader took a file, and what was wrong with that."""
    from unet_motion.formats import FileFormatError

    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else _size(path)
    faults = []
    before = _reset_peak()
    start = time.process_time()  # a busy machine does not count
    try:
        read(path)
        result = "read"
    except FileFormatError as error:
        result = "refused"
        faults += _wrong_sentence(str(error), path)
    except OSError as error:
        # Documented where a folder lacks a file that it lists; anything else would come from the machine.
        result = "refused"
        faults += _wrong_sentence(str(error), path) if error.errno is None else [f"OSError: {error}"]
    except Exception as error:
        result = type(error).__name__
        where = traceback.extract_tb(error.__traceback__)[-1]
        faults.append(f"{result} at {Path(where.filename).name}:{where.lineno}: {str(error)[:120]!r}")
    spent = time.process_time() - start
    grown = _peak() - before
    if spent > SECONDS:
        faults.append(f"took {spent:.1f} seconds for {size} bytes")
    if grown > BYTES + 10 * size:
        faults.append(f"took {grown / 2**20:.0f} MiB for {size} bytes")
    return result, faults


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _wrong_sentence(text: str, path: Path) -> list[str]:
    wrong = []
    if len(text) >= LENGTH:
        wrong.append(f"an error of {len(text)} characters")
    if not text.isprintable():
        wrong.append(f"an error that cannot be printed: {text[:80]!r}")
    if path.name not in text:
        wrong.append(f"an error without the file's name: {text[:80]!r}")
    return wrong


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith(name)), 0)


def _reset_peak() -> int:
    """Forget the most memory that the process held so far; gives what it holds now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS:")
    except OSError:  # not on Linux, or not allowed: the peak of the whole process stands for it
        return _peak()


def _peak() -> int:
    if os.path.exists("/proc/self/status"):
        return _status("VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
