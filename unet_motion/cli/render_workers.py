"""Workers that draw the jobs of `unet-motion render`, each in a process of its own, and what happens when one is lost.

A worker hands back the files' bytes; who asked for them puts them in their place. So a lost worker leaves nothing
behind, and workers need no folder in common.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..files.errors import one_line
from .render_jobs import Job
from .render_outputs import inside

TRIES = 3
"""How often a job is begun whose worker is lost."""
IN_A_ROW = 4 * TRIES
"""So many workers lost without one finished job between them end the run."""


@dataclass(frozen=True)
class Drawn:
    """What became of a job: its files by their names in the folder of all clips, or the error's sentence."""

    files: dict[str, bytes]
    error: str | None = None


class Renderer:
    """Draws jobs one after the other; the last one's model is kept for the next.

    Args:
        device: of torch.
        threads: of torch, on a CPU. More may round otherwise, so that their number stays the same for all workers.
    """

    def __init__(self, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.device = device
        self.kept: tuple[tuple, Any] | None = None

    def draw(self, job: Job) -> Drawn:
        """The job's files; an error of any kind is the job's, not the worker's."""
        try:
            return Drawn(self._files(job))
        except (ValueError, OSError, ImportError) as error:
            return Drawn({}, one_line(str(error)))
        except Exception as error:
            return Drawn({}, one_line(f"{type(error).__name__}: {error}"))

    def _files(self, job: Job) -> dict[str, bytes]:
        from . import generate

        call = generate.call_arguments(job.args)
        frames = self._pipeline(job)(**call, progress=False)
        with tempfile.TemporaryDirectory(prefix="unet-motion-") as name:
            folder = Path(name)
            args = inside(job.args, folder)
            generate.write(args, args.out, frames)
            return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    def _pipeline(self, job: Job) -> Any:
        from . import generate

        if self.kept is None or self.kept[0] != job.model:
            self.kept = None  # two models need not fit beside each other
            self.kept = job.model, generate.load(job.args, self.device)
        return self.kept[1]


class Worker(Protocol):
    """A process that draws one job at a time."""

    def submit(self, job: Job) -> Future[Drawn]: ...

    def close(self) -> None:
        """End it, and what it draws; it may be closed already."""


def spread(
    jobs: Sequence[Job], count: int, make: Callable[[int], Worker], lost: tuple[type[BaseException], ...],
    say: Callable[[str], None],
) -> Iterator[tuple[Job, Drawn]]:  # fmt: skip
    """What becomes of jobs, as they are done; a job whose worker is lost is begun again by another one.

    Args:
        count: of workers.
        make: a worker, for its number from 0.
        lost: what a worker's answer raises when the worker is no more.
        say: takes a sentence on each lost worker.

    Raises:
        OSError: workers end before they finish anything.
    """
    run = _Run(jobs, count, make, lost, say)
    try:
        while run.waiting or run.busy:
            run.begin()
            for future in wait(run.busy, return_when=FIRST_COMPLETED).done:
                found = run.end(future)
                if found is not None:
                    yield found
    finally:
        _close([*run.idle.values(), *(worker for _, worker, _ in run.busy.values())])


class _Run:
    """The workers and the jobs of :func:`spread`, whose arguments it takes."""

    def __init__(
        self, jobs: Sequence[Job], count: int, make: Callable[[int], Worker], lost: tuple[type[BaseException], ...],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.make, self.lost, self.say = make, lost, say
        self.waiting, self.tries, self.in_a_row = deque(jobs), Counter[int](), 0
        self.idle = {number: make(number) for number in range(min(count, len(jobs)))}
        self.busy: dict[Future[Drawn], tuple[int, Worker, Job]] = {}

    def begin(self) -> None:
        """Give jobs to workers that have none, and let those go for which there are no more."""
        for number in list(self.idle)[: len(self.waiting)]:
            # An interruption may come at any place: each worker stays where it is found and closed.
            worker, job = self.idle[number], self.waiting[0]
            self.busy[self._submitted(worker, job)] = number, worker, job
            del self.idle[number]
            self.waiting.popleft()
        if not self.waiting:
            # A worker that has no place yet may wait for theirs.
            _close(self.idle.values())
            self.idle = {}

    def end(self, future: Future[Drawn]) -> tuple[Job, Drawn] | None:
        """What became of a job whose answer is there; None where it is begun again."""
        number, worker, job = self.busy.pop(future)
        try:
            drawn = future.result()
        except self.lost:
            worker.close()
        else:
            self.idle[number], self.in_a_row = worker, 0
            return job, drawn
        self.tries[job.line] += 1
        self.in_a_row += 1
        if self.in_a_row > IN_A_ROW:
            raise OSError(f"{self.in_a_row} workers in a row ended before they finished a job")
        self.idle[number] = self.make(number)
        if self.tries[job.line] < TRIES:
            self.say(f"line {job.line}: its worker was lost, another one draws it")
            self.waiting.appendleft(job)
            return None
        return job, Drawn({}, f"its worker was lost {TRIES} times, expected it to finish: is the memory enough?")

    def _submitted(self, worker: Worker, job: Job) -> Future[Drawn]:
        try:
            return worker.submit(job)
        except self.lost as error:  # it ended between two jobs
            future: Future[Drawn] = Future()
            future.set_exception(error)
            return future


def _close(workers: Any) -> None:
    for worker in workers:
        worker.close()


class LocalWorker:
    """A process on this machine; `BrokenProcessPool` says that it is lost."""

    def __init__(self, device: str, threads: int) -> None:
        # A pool of one each: a larger one is broken as a whole where one of its processes ends. "spawn", since a fork
        # of a process that has used a CUDA device cannot use it.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, _begin, (device, threads))

    def submit(self, job: Job) -> Future[Drawn]:
        return self.pool.submit(_draw, job)

    def close(self) -> None:
        """End the process at once: nobody waits for what it draws."""
        for process in list((self.pool._processes or {}).values()):
            process.terminate()
        self.pool.shutdown(cancel_futures=True)


_renderer: Renderer


def _begin(device: str, threads: int) -> None:
    global _renderer
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal interrupts all; one of them says so
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _renderer = Renderer(device, threads)


def _end_with_parent() -> None:
    """A killed parent closes nothing: without this its workers would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw(job: Job) -> Drawn:
    return _renderer.draw(job)
