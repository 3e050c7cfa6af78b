"""Workers of `unet-motion render`: who gets which job, and what becomes of one whose worker is lost."""

import multiprocessing
import time
from argparse import Namespace
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from unet_motion.cli import render, render_workers
from unet_motion.cli.render_jobs import Job
from unet_motion.cli.render_workers import IN_A_ROW, TRIES, Drawn, spread


class Gone(Exception):
    """A worker is no more."""


class Fake:
    """A worker whose answers a function of (worker's number, job's line) gives: None is a loss."""

    made: list

    def __init__(self, number, answer, made):
        self.number, self.answer, self.made, self.closed = number, answer, made, 0
        made.append(self)

    def submit(self, job):
        future = Future()
        found = self.answer(self.number, job.line)
        if found == "at once":
            raise Gone
        future.set_exception(Gone()) if found is None else future.set_result(found)
        return future

    def close(self):
        self.closed += 1


def spread_over(answer, lines, count):
    made, said = [], []
    jobs = [Job(line, Namespace()) for line in lines]
    found = spread(jobs, count, lambda number: Fake(number, answer, made), (Gone,), said.append)
    try:
        return {job.line: drawn for job, drawn in found}, made, said
    except OSError as error:
        return error, made, said
    finally:
        assert all(worker.closed for worker in made)


@pytest.mark.parametrize("how", [None, "at once"])
def test_a_job_whose_worker_is_lost_is_begun_again_a_few_times(how):
    seen = []

    def answer(number, line):
        seen.append(line)
        lost = line == 2 and seen.count(2) < TRIES or line == 3
        return how if lost else Drawn({str(line): b""})

    found, made, said = spread_over(answer, [1, 2, 3, 4], 2)
    assert {line: drawn.files for line, drawn in found.items()} == {1: {"1": b""}, 2: {"2": b""}, 3: {}, 4: {"4": b""}}
    assert f"its worker was lost {TRIES} times" in found[3].error and found[2].error is None
    assert seen.count(2) == seen.count(3) == TRIES and seen.count(1) == seen.count(4) == 1
    assert len(said) == 2 * (TRIES - 1) and said[0] == "line 2: its worker was lost, another one draws it"
    assert len(made) == 2 + 2 * TRIES - 1 and {worker.number for worker in made} == {0, 1}


def test_workers_that_never_finish_anything_end_the_run():
    error, made, _ = spread_over(lambda number, line: None, range(1, 100), 2)
    assert f"{IN_A_ROW + 1} workers in a row ended before they finished a job" in str(error)
    assert len(made) <= IN_A_ROW + 3


def test_there_are_no_more_workers_than_jobs_and_those_without_work_make_room():
    waiting, made = [], []

    class Scarce(Fake):
        """The second one gets its place when the first is closed."""

        def submit(self, job):
            if self.number == 0:
                return super().submit(job)
            waiting.append(Future())
            return waiting[-1]

        def close(self):
            super().close()
            if self.number == 0 and waiting and not waiting[0].done():
                waiting[0].set_result(Drawn({}))

    jobs = [Job(line, Namespace()) for line in (1, 2)]
    answer = lambda number, line: Drawn({})  # noqa: E731
    found = list(spread(jobs, 8, lambda number: Scarce(number, answer, made), (Gone,), print))
    assert {job.line for job, _ in found} == {1, 2} and len(made) == 2


def test_an_interruption_while_a_job_is_handed_over_leaves_no_worker_open():
    def interrupted(number, line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread_over(interrupted, [1, 2], 2)


def test_a_worker_that_is_closed_ends_at_once():
    worker = render_workers.LocalWorker("cpu", 1)
    answer = worker.pool.submit(time.sleep, 300)
    start = time.monotonic()
    worker.close()
    assert time.monotonic() - start < 100 and multiprocessing.active_children() == []
    assert isinstance(answer.exception(0), BrokenProcessPool)
    worker.close()


def test_workers_take_turns_on_the_cards_of_this_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert render.local_devices(None) == render.local_devices("cuda") == ["cuda:0", "cuda:1"]
    assert render.local_devices("cuda:1") == ["cuda:1"] and render.local_devices("cpu") == ["cpu"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert render.local_devices(None) == ["cpu"] and render.cores() >= 1
