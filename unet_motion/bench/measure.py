"""Time, peak memory and launches of callables, and what the machine could do at best."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .classes import class_of

Work = Callable[[], object]

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::conv2d")
"""Operators whose arithmetic the profiler counts as that of a step; it also counts sums and products of elements."""


@dataclass(frozen=True)
class Turns:
    """Seconds of several callables that were run in turn.

    Attributes:
        seconds: by name, one entry per round.
    """

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """Median, smallest and largest of the rounds' ratios ``slow / fast``."""
        ratios = [a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock_for(device: torch.device) -> Callable[[], float]:
    """Seconds: on one thread of a CPU those that the process computed, which other programs do not lengthen."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def take_turns(
    works: Mapping[str, Work], device: torch.device, rounds: int, warm: int = 1, inner: int = 1,
    clock: Callable[[], float] | None = None,
) -> Turns:  # fmt: skip
    """Run the works A B A B, ``warm`` rounds untimed and ``rounds`` timed; ``inner`` calls make one sample.

    The clock is :func:`clock_for` the device, unless one is given.
    """
    clock = clock or clock_for(device)
    for _ in range(warm):
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, work in works.items():
                synchronise(device)
                start = clock()
                for _ in range(inner):
                    work()
                synchronise(device)
                seconds[name].append((clock() - start) / inner)
    finally:
        if enabled:
            gc.enable()
    return Turns(seconds)


@dataclass(frozen=True)
class Weight:
    """What one call needs.

    Attributes:
        result: what the call gave.
        memory: bytes that it holds at most above what was held before it, as torch's allocator counts them.
        launches: kernels on a GPU, operators on a CPU.
        flops: floating point operations of its matrix products, convolutions and attention, two per multiply-add.
        shares: of its time, by operation class.
    """

    result: Any
    memory: int
    launches: int
    flops: int
    shares: dict[str, float]


def weigh(work: Work, device: torch.device) -> Weight:
    """Call a work under torch's profiler, on a GPU after two calls without it: one that warms it, one for its memory.

    On a CPU, where a call takes seconds, everything is found in one.
    """
    on_gpu, memory = device.type == "cuda", 0
    if on_gpu:
        work()
        memory = _held_on_gpu(work, device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities, profile_memory=not on_gpu, with_flops=True) as record:
        result = work()
        synchronise(device)
    events = [event for event in recorded_events(record) if event.name() != "[memory]"]
    if on_gpu:
        launched = [event for event in events if event.device_type() != torch.autograd.DeviceType.CPU]
        return Weight(result, memory, len(launched), _arithmetic(events), _by_class(_durations(launched)))
    return Weight(result, _most_held(record), len(events), _arithmetic(events), _by_class(self_times(events)))


def _held_on_gpu(work: Work, device: torch.device) -> int:
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before


def recorded_events(record: profile) -> list[Any]:
    """What a profiler that has ended recorded, as its C++ part gives it."""
    results = None if record.profiler is None else record.profiler.kineto_results
    assert results is not None
    return results.events()


def _most_held(record: profile) -> int:
    events = [event for event in recorded_events(record) if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _arithmetic(events: list[Any]) -> int:
    total = 0
    for event in events:
        if event.name() in PRODUCTS:
            total += event.flops()
        elif event.name().startswith("aten::_scaled_dot_product_"):  # of whose arithmetic the profiler knows nothing
            query, key, value = event.shapes()[:3]
            total += 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return total


def _durations(events: list[Any]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for event in events:
        total[event.name()] += event.duration_ns()
    return total


def self_times(events: list[Any]) -> dict[str, float]:
    """Nanoseconds by operator on a CPU, each without the operators that it calls."""
    total: dict[str, float] = defaultdict(float)
    callers: list[tuple[str, int, int]] = []  # name, thread and end
    for event in sorted(events, key=lambda e: (e.start_thread_id(), e.start_ns(), -e.duration_ns())):
        name, thread, start, took = event.name(), event.start_thread_id(), event.start_ns(), event.duration_ns()
        while callers and (callers[-1][1] != thread or callers[-1][2] <= start):
            callers.pop()
        if callers:
            total[callers[-1][0]] -= took
        total[name] += took
        callers.append((name, thread, start + took))
    return total


def _by_class(times: dict[str, float]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for name, took in times.items():
        total[class_of(name)] += took
    whole = sum(total.values()) or 1.0
    return {kind: took / whole for kind, took in sorted(total.items(), key=lambda item: -item[1])}


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches: ``flops`` per second in a large matrix product, ``bytes`` per second in a copy."""

    flops: float
    bytes: float

    def best(self, other: Ceilings) -> Ceilings:
        """The higher of each: a machine that others use too is now and then slower than it can be."""
        return Ceilings(max(self.flops, other.flops), max(self.bytes, other.bytes))


def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure a large matrix product and a large copy (bytes read and written)."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    count = 2**28 if device.type == "cuda" else 2**25
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source)
    product = take_turns({"": lambda: a @ b}, device, rounds=5, warm=1)
    copy = take_turns({"": lambda: target.copy_(source)}, device, rounds=5, warm=1)
    return Ceilings(2 * side**3 / min(product.seconds[""]), 2 * 4 * count / min(copy.seconds[""]))
