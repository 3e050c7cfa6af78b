"""Device time of short work: by events on a card, in one captured graph, so that the host is no part of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...runtime.cuda_recorder import CudaRecorder

Work = Callable[[], Tensor]


def milliseconds(works: Sequence[Work], device: torch.device, repeats: int) -> float:
    """The median time of one of several works of the same kind, which run one after another on inputs of their own."""

    def through() -> Tensor:
        for work in works:
            result = work()
        return result

    if device.type != "cuda":
        return statistics.median(_host(through) for _ in range(repeats)) / len(works)
    replay, _ = CudaRecorder()(through, device)
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    with torch.cuda.device(device):
        replay()
        for start, end in marks:
            start.record()
            replay()
            end.record()
        torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in marks) / len(works)


def _host(work: Work) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def peak(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call holds at most above what was held before, on a card."""
    if device.type != "cuda":
        work()
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
