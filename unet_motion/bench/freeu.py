"""What FreeU adds to a step. It is less than steps differ by, so that its concatenations are timed by themselves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..model import blocks
from ..ops.freeu import FreeU, freeu_concat
from .cases import LIMITS, Bench, Row, step_of_ours, step_of_theirs
from .measure import take_turns
from .nets import both_unets, make_inputs, relative_error, text_width_of

FREEU: dict[str, Any] = {"s1": 0.9, "s2": 0.2, "b1": 1.5, "b2": 1.6}
INNER = 20
"""Calls of all concatenations of a step in one sample."""

Concatenation = tuple[Tensor, Tensor, int]
"""Backbone, skip and number of the up block."""


def freeu_step(bench: Bench, size: str, batch: int, frames: int, side: int, target: str) -> list[Row]:
    """FreeU's part of a step, whose results with it have to agree."""
    ours, theirs = both_unets(size, bench.device, bench.dtype)
    inputs = make_inputs(batch, frames, side, text_width_of(ours.config), bench.device, bench.dtype)
    results: list[Tensor] = []
    step, their_step = step_of_ours(ours, inputs), step_of_theirs(theirs, inputs)
    for unet in (ours, theirs):
        unet.enable_freeu(**FREEU)
    try:
        with concatenations() as found:

            def run() -> None:
                found.clear()
                results.append(step())

            turns = take_turns({"step": run}, bench.device, 1, bench.warm)
        error = relative_error(results[-1], their_step())
    finally:
        for unet in (ours, theirs):
            unet.disable_freeu()
    case = f"step {size} {batch}x{frames}x{side}x{side}"
    if not error <= LIMITS[bench.dtype]:
        row = Row(f"FreeU in {case}", "diffusers", float("nan"), target=target, note="outputs differ: not timed")
    else:
        row = alone(bench, case, found, turns.median("step"), target)
    row.error = error
    return [row]


@contextmanager
def concatenations() -> Iterator[list[Concatenation]]:
    """Collects what the up blocks of steps in this context concatenate where FreeU would act."""
    found: list[Concatenation] = []

    def record(hidden: Tensor, skip: Tensor, freeu: FreeU | None, resolution: int) -> Tensor:
        if resolution < 2:
            found.append((hidden.clone(), skip.clone(), resolution))
        return freeu_concat(hidden, skip, freeu, resolution)

    blocks.freeu_concat = record
    try:
        yield found
    finally:
        blocks.freeu_concat = freeu_concat


def alone(bench: Bench, case: str, found: list[Concatenation], whole: float, target: str) -> Row:
    """What FreeU adds to the concatenations of a step, and how much of the ``whole`` step's seconds that is."""
    from diffusers.utils.torch_utils import apply_freeu

    freeu = FreeU(**FREEU)
    # diffusers scales its input in place, again in each call: by 1, so that it stays finite.
    their_factors = FREEU | {"b1": 1.0, "b2": 1.0}
    planes = [(hidden.contiguous(), skip.contiguous(), i) for hidden, skip, i in found]

    def ours() -> None:
        for hidden, skip, i in found:
            freeu_concat(hidden, skip, freeu, i)

    def theirs() -> None:
        for hidden, skip, i in planes:
            torch.cat(apply_freeu(i, hidden, skip, **their_factors), dim=1)

    def plain(entries: list[Concatenation]) -> Callable[[], None]:
        def run() -> None:
            for hidden, skip, _ in entries:
                torch.cat([hidden, skip], dim=1)

        return run

    works = {"ours": ours, "plain": plain(found), "theirs": theirs, "their plain": plain(planes)}
    turns = take_turns({n: torch.no_grad()(w) for n, w in works.items()}, bench.device, 2 * bench.rounds, 1, INNER)
    added, their_added = (
        statistics.median(a - b for a, b in zip(turns.seconds[on], turns.seconds[off], strict=True))
        for on, off in (("ours", "plain"), ("theirs", "their plain"))
    )
    row = Row(f"FreeU in {case}", "diffusers", added, their_added, target=target)
    row.note = f"{100 * added / whole:.2f} % of the step"
    return row
