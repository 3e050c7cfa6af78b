"""`unet-motion render`: many prompts to many files, on all cards of a machine or of a Ray cluster."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .render_outputs import FAILURES

if TYPE_CHECKING:
    from .render_jobs import Job
    from .render_workers import Drawn

MOST_THREADS = 256
MOST_WORKERS = 1024
"""Of a cluster."""
WORKERS_EACH = 8
"""So many at most on this machine for each core or device, whichever are more."""
NAMED = 20
"""Lines of a file that are named when they are wrong."""


def add_arguments(subparsers) -> None:
    parser = subparsers.add_parser(
        "render",
        help="many clips from a file of jobs, on several cards or machines",
        description="Draw a clip for each line of a file: a JSON object whose names are the options of `generate`, "
        'such as {"prompt": "a red star moving left", "seed": 7, "motion_lora": ["pan-left:0.5"], "out": "star.webp"}. '
        "Without `seed` the line's content gives one, without `out` prompt and seed give the name. All lines are "
        "checked before a model is loaded; what is there already is not drawn again.",
        epilog=f"Clips that fail are lines of DIR/{FAILURES}; then the exit status is 1. The pixels do not depend on "
        "the number of workers. --address needs the extra `ray`.",
    )
    add = parser.add_argument
    add("jobs", type=Path, metavar="JOBS.jsonl", help="one JSON object a line; files that it names are found as by "
        "`generate`, from the working directory")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="folder that `out` and `sheet` of the jobs lie in")
    add("--workers", type=int, metavar="N", help="processes, each with a model of its own (default: one a CUDA device, "
        "without one as many as there are cores)")  # fmt: skip
    add("--threads", type=int, default=1, metavar="N", help="of each worker on a CPU (default 1)")
    add("--device", help="torch device of all workers, such as cpu (default: CUDA devices where there are some)")
    add("--address", help="of a Ray cluster, such as auto or ray://host:10001; local starts Ray here")
    add("--overwrite", action="store_true", help="draw clips again that are there with other settings")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..progress import track

    _check(args)
    with _held(args.out):
        todo, there, wrong = _todo(args)
        if wrong:
            _name(wrong)
            return 2
        if todo:
            _check_writable(args.out)
        failures: dict[int, str] = {}
        try:
            with closing(_drawn(args, todo)) as results:
                for job, drawn in track(results, len(todo), "clips", enabled=bool(todo)):
                    error = drawn.error or _place(args.out, job, drawn.files)
                    if error is not None:
                        failures[job.line] = error
        finally:
            _write_failures(args.out / FAILURES, failures)
    print(f"{args.out}: drawn {len(todo) - len(failures)}, there before {there}, failed {len(failures)}")
    return 1 if failures else 0


def _check(args: argparse.Namespace) -> None:
    from .device import check_device

    _check_count("threads", args.threads, MOST_THREADS)
    if args.workers is not None:
        here = WORKERS_EACH * max(cores(), len(local_devices(args.device)))
        _check_count("workers", args.workers, here if args.address is None else MOST_WORKERS)
    if os.path.lexists(args.out) and not os.path.isdir(args.out):
        raise NotADirectoryError(f"--out {args.out} is a file, expected a folder")
    if args.address is not None:
        from .render_ray import load_ray

        load_ray()
    elif args.device is not None:
        check_device(args.device)


def _check_count(name: str, number: int, most: int) -> None:
    from ..files.errors import shorten

    if not 1 <= number <= most:
        raise ValueError(f"--{name} is {shorten(str(number), 30)}, expected 1 to {most} here")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder of all clips, held by this run; a ValueError where it cannot be made."""
    from ..files.lock import folder_lock

    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder))
        except BlockingIOError as error:
            raise ValueError(f"--out {folder}: {error.strerror}") from error
        except OSError as error:
            raise ValueError(f"--out {folder} cannot be made ({error.strerror}), expected a folder to write") from error
        yield


def _check_writable(folder: Path) -> None:
    from ..files.atomic import check_place

    try:
        check_place(folder / FAILURES)
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written ({error}), expected a folder to write") from error


def _todo(args: argparse.Namespace) -> tuple[list[Job], int, list[str]]:
    """The jobs that are left, ordered so that those of one model follow each other; how many are finished; what is
    wrong."""
    from .render_jobs import in_words_of_a_line, read_jobs
    from .render_outputs import OccupiedError, is_finished

    jobs, wrong = read_jobs(args.jobs, args.out, _say)
    todo = []
    for job in jobs:
        try:
            if not is_finished(job.args, args.out):
                todo.append(job)
        except Exception as error:
            if args.overwrite and isinstance(error, OccupiedError):
                todo.append(job)
            else:
                wrong.append(f"line {job.line}: {in_words_of_a_line(error)}")
    first: dict[tuple, int] = {}
    for job in todo:
        first.setdefault(job.model, job.line)
    return sorted(todo, key=lambda job: (first[job.model], job.line)), len(jobs) - len(todo), wrong


def _drawn(args: argparse.Namespace, jobs: Sequence[Job]) -> Generator[tuple[Job, Drawn]]:
    from .render_workers import LocalWorker, spread

    if not jobs:
        return
    if args.address is not None:
        from .render_ray import ray_workers

        with ray_workers(args.address, args.device, args.threads) as (make, count, lost):
            yield from spread(jobs, args.workers or count, make, lost, _say)
        return
    from concurrent.futures.process import BrokenProcessPool

    devices = local_devices(args.device)
    count = args.workers or (cores() if devices == ["cpu"] else len(devices))

    def make_local(number: int) -> LocalWorker:
        return LocalWorker(devices[number % len(devices)], args.threads)

    yield from spread(jobs, count, make_local, (BrokenProcessPool,), _say)


def local_devices(name: str | None) -> list[str]:
    """The devices of workers on this machine: the named one, or all CUDA devices, or the CPU."""
    import torch

    if name is not None and name != "cuda":
        return [name]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def cores() -> int:
    """That this process may use."""
    usable: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() or 1) if usable is None else len(usable(0))


def _place(folder: Path, job: Job, files: dict[str, bytes]) -> str | None:
    """Put a job's files where they belong, each whole or not at all; the error's sentence, or None."""
    from ..files.atomic import atomic_file, atomic_folder

    try:
        for name in reversed(job.outputs):  # the clip last: it says that all is there
            if name.suffix:
                with atomic_file(folder / name) as part:
                    part.write_bytes(files[name.as_posix()])
                continue
            with atomic_folder(folder / name) as part:
                for frame, content in files.items():
                    if Path(frame).parent == name:
                        (part / Path(frame).name).write_bytes(content)
    except OSError as error:
        return str(error)
    return None


def _write_failures(path: Path, failures: dict[int, str]) -> None:
    from ..files.atomic import atomic_file

    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as part:
        lines = [json.dumps({"job": line, "error": failures[line]}) for line in sorted(failures)]
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _name(wrong: Sequence[str]) -> None:
    for sentence in wrong[:NAMED]:
        print(f"unet-motion render: error: {sentence}", file=sys.stderr)
    if len(wrong) > NAMED:
        print(f"unet-motion render: error: {len(wrong) - NAMED} more lines are wrong", file=sys.stderr)


def _say(sentence: str) -> None:
    print(f"unet-motion render: {sentence}", file=sys.stderr)
