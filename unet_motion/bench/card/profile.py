"""Where a step's time goes: by class of kernel, with launches, and gaps in which the card computes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from ..classes import class_of
from ..measure import recorded_events, self_times, synchronise
from .networks import inputs_of, steps_of
from .stages import Card, Found

TOP = 25
"""Kernels that are named."""


def stage(card: Card, found: Found) -> None:
    """A row for each way of a step, then the kernels that take the most time in each."""
    steps = card.kept.pop("steps", None) or steps_of(card.sizes, card.device, card.sizes.step_dtypes[0])
    given = inputs_of(card.sizes, card.sizes.sides[0], card.device, steps.ours.dtype)
    named = []
    for way, step in steps.ways().items():
        with found.row(way) as row:
            spans = recorded(partial(step, given), card.device)
            row.update(summary(spans))
            named.append((way, spans))
    for way, spans in named:
        total: dict[str, float] = defaultdict(float)
        for name, start, end in spans:
            total[name] += (end - start) / 1e6
        counts = Counter(name for name, _, _ in spans)
        for name, took in sorted(total.items(), key=lambda item: -item[1])[:TOP]:
            found.add(f"{way}: {name[:150]}", ms=took, launches=counts[name], kind=class_of(name))


Span = tuple[str, float, float]
"""Name, start and end in nanoseconds."""


def recorded(work: Callable[[], object], device: torch.device) -> list[Span]:
    """What a card, or without one the CPU, ran in a call; of an operator of the CPU only its own time, end to end."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        work()
        synchronise(device)
    # What the host does is left out on a card: watching it makes it slower, and the gaps longer.
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as record:
        work()
        synchronise(device)
    events = [event for event in recorded_events(record) if event.name() != "[memory]"]
    if on_gpu:
        card = [event for event in events if event.device_type() != torch.autograd.DeviceType.CPU]
        return [(event.name(), event.start_ns(), event.start_ns() + event.duration_ns()) for event in card]
    spans, now = [], 0.0
    for name, took in self_times(events).items():
        spans.append((name, now, now + took))
        now += took
    return spans


def summary(spans: Iterable[Span]) -> dict[str, object]:
    """Milliseconds from the first start to the last end, those of each class, launches, and idle milliseconds."""
    spans = sorted(spans, key=lambda span: span[1])
    if not spans:
        return {"result": "nothing was recorded"}
    by_class: dict[str, float] = defaultdict(float)
    idle, reached = 0.0, spans[0][1]
    for name, start, end in spans:
        by_class[class_of(name)] += (end - start) / 1e6
        idle += max(0.0, start - reached) / 1e6
        reached = max(reached, end)
    shares = dict(sorted(by_class.items(), key=lambda item: -item[1]))
    return {
        "ms": (reached - spans[0][1]) / 1e6,
        "launches": len(spans),
        "gaps ms": idle,
        **shares,
    }
