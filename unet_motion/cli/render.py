"""`unet-motion render`: many prompts to many files, on all cards of a machine or of a Ray cluster."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .render_jobs import Job
    from .render_workers import Drawn

FAILURES = "failures.jsonl"
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
    from ..files.lock import folder_lock
    from ..progress import track

    _check(args)
    with folder_lock(args.out):
        todo, there, wrong = _todo(args)
        if wrong:
            _name(wrong)
            return 2
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

    for name in ("workers", "threads"):
        number = getattr(args, name)
        if number is not None and number < 1:
            raise ValueError(f"--{name} is {number}, expected at least 1")
    if args.out.exists() and not args.out.is_dir():
        raise NotADirectoryError(f"--out {args.out} is a file, expected a folder")
    if args.address is not None:
        from .render_ray import load_ray

        load_ray()
    elif args.device is not None:
        check_device(args.device)


def _todo(args: argparse.Namespace) -> tuple[list[Job], int, list[str]]:
    """The jobs that are left, ordered so that those of one model follow each other; how many are finished; what is
    wrong."""
    from .render_jobs import is_finished, read_jobs

    jobs, wrong = read_jobs(args.jobs, args.out, _say)
    todo = []
    for job in jobs:
        try:
            if not is_finished(job, args.out):
                todo.append(job)
        except ValueError as error:
            if args.overwrite:
                todo.append(job)
            else:
                wrong.append(f"line {job.line}: {error}")
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
