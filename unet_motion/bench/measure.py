"""Time, peak memory and launches of callables, and what the machine could do at best."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]

CLASSES = {
    "GEMM": ("addmm", "aten::mm", "bmm", "baddbmm", "gemm", "matmul", "cutlass", "xmma", "nvjet"),
    "convolution": ("conv", "winograd", "implicit", "dgrad", "fprop"),
    "attention": ("scaled_dot_product", "flash", "fmha", "softmax", "attention"),
    "norm": ("group_norm", "layer_norm", "norm", "batch_norm"),
    "copy": ("copy_", "cat", "Memcpy", "clone", "CatArray", "index_select", "upsample"),
}
"""Operation classes of the profile, by parts of operator and kernel names; the rest is pointwise."""


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


def take_turns(works: dict[str, Work], device: torch.device, rounds: int, warm: int = 1, inner: int = 1) -> Turns:
    """Run the works A B A B, ``warm`` rounds untimed and ``rounds`` timed; ``inner`` calls make one sample."""
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
                start = time.perf_counter()
                for _ in range(inner):
                    work()
                synchronise(device)
                seconds[name].append((time.perf_counter() - start) / inner)
    finally:
        if enabled:
            gc.enable()
    return Turns(seconds)


def peak_memory(work: Work, device: torch.device) -> int:
    """Bytes that a call holds at most above what was held before it, as torch's allocator counts them."""
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    return _most_held(_recorded(work)[1])


def _recorded(work: Work) -> tuple[Any, profile]:
    """What a call on a CPU gives, and its profile with its memory."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = work()
    return result, record


def _most_held(record: profile) -> int:
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def operations(work: Work, device: torch.device) -> tuple[int, dict[str, float]]:
    """Number of launches (kernels on a GPU, operators on a CPU) and the share of their time by operation class."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as record:
        work()
        synchronise(device)
    count, shares = _by_class(record, device)
    return count if device.type == "cuda" else _operators(record), shares


def weigh(work: Work, device: torch.device) -> tuple[int, int, dict[str, float]]:
    """`peak_memory` and `operations`, on a CPU of one and the same call."""
    if device.type == "cuda":
        return peak_memory(work, device), *operations(work, device)
    record = _recorded(work)[1]
    return _most_held(record), _operators(record), _by_class(record, device)[1]


def first_weight(work: Work) -> tuple[Any, int, int]:
    """What a call on a CPU gives, its peak memory and its number of operators.

    The shares of the operation classes are left out: to find them takes as long as the call, where it has many.
    """
    result, record = _recorded(work)
    return result, _most_held(record), _operators(record)


def _operators(record: profile) -> int:
    return sum(event.name() != "[memory]" for event in record.profiler.kineto_results.events())


def _by_class(record: profile, device: torch.device) -> tuple[int, dict[str, float]]:
    count, total = 0, {}
    for event in record.key_averages():
        on_gpu = device.type == "cuda"
        took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if not took or (on_gpu and event.device_type == torch.autograd.DeviceType.CPU):
            continue
        count += event.count
        kind = next((k for k, parts in CLASSES.items() if any(p in event.key for p in parts)), "pointwise")
        total[kind] = total.get(kind, 0.0) + took
    whole = sum(total.values()) or 1.0
    return count, {kind: took / whole for kind, took in sorted(total.items(), key=lambda item: -item[1])}


def counted(work: Work) -> tuple[Any, int]:
    """What a call gives, and its `flops`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, counter.get_total_flops()


def flops(work: Work) -> int:
    """Floating point operations of matrix products, convolutions and attention in a call (two per multiply-add)."""
    return counted(work)[1]


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
    product = take_turns({"": lambda: a @ b}, device, rounds=8, warm=1)
    copy = take_turns({"": lambda: target.copy_(source)}, device, rounds=8, warm=1)
    return Ceilings(2 * side**3 / min(product.seconds[""]), 2 * 4 * count / min(copy.seconds[""]))
