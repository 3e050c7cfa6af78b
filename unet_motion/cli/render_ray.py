"""Workers of `unet-motion render` on a Ray cluster: an actor a GPU, or a CPU's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from .render_jobs import Job
from .render_workers import Drawn, Renderer, Worker

Workers = tuple[Callable[[int], Worker], int, tuple[type[BaseException], ...]]


def load_ray() -> Any:
    """Ray; ImportError with what to do where it is missing."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("--address needs Ray, which is not installed: `pip install ray` (the extra `ray`)") from error
    return ray


@contextmanager
def ray_workers(address: str, device: str | None, threads: int) -> Iterator[Workers]:
    """How a worker is made, how many the cluster has room for, and the errors that say that one is lost.

    Args:
        address: as `ray.init` takes it.
        device: of all workers; None is a CUDA device each where the cluster has some, else the CPU.

    Raises:
        ConnectionError: there is no cluster.
    """
    ray = load_ray()
    ray.init(address=address, log_to_driver=False, logging_level="error", ignore_reinit_error=True)
    try:
        found = ray.cluster_resources()
        device = device or ("cuda" if found.get("GPU") else "cpu")
        kind, per_worker = ("CPU", threads) if device == "cpu" else ("GPU", 1)
        share = {"num_cpus": threads} if kind == "CPU" else {"num_cpus": 0, "num_gpus": 1}
        # Ray would begin a lost actor again with the task that ended it; how often that is done is said elsewhere.
        actor = ray.remote(**share, max_restarts=0, max_task_retries=0)(Renderer)

        def make(number: int) -> RayWorker:
            return RayWorker(ray, actor.remote(device, threads))

        errors = ray.exceptions
        lost = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError)
        yield make, max(1, int(found.get(kind, 0)) // per_worker), lost
    finally:
        ray.shutdown()


class RayWorker:
    """An actor; `RayActorError` says that it is lost."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor

    def submit(self, job: Job) -> Future[Drawn]:
        return self.actor.draw.remote(job).future()

    def close(self) -> None:
        self.ray.kill(self.actor)
