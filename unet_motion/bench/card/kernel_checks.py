"""Each Triton kernel against float64, in memory full of NaN, and its time beside that of a copy of as many bytes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...ops.comparison import Reference, last, maker
from ...ops.dispatch import KERNELS
from ...ops.pairs import Make, Pair
from ..kernel_cases import PAIRS
from .sizes import Level
from .stages import Card, Found
from .timing import Work, milliseconds

PADDING = 8
"""Poisoned numbers before and behind each row; a multiple of what is read at once, so that real addresses stay."""


def seed_of(level: Level, number: int) -> int:
    return 1000 * number + level.channels


def launch(given: Pair) -> Tensor:
    """The kernel's last result."""
    return last(given.kernel())


def pair(words: str, level: Level, make: Make) -> Pair:
    return PAIRS[words][1](make, level.clips, level.frames, level.side, level.channels)


def reference(words: str, level: Level, dtype: torch.dtype, device: torch.device, padding: int = 0) -> Reference:
    """A kernel's input at a level, with so many poisoned numbers before and behind each row."""
    return Reference(partial(pair, words, level), seed_of(level, 0), dtype, device, padding)


def declines(words: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a kernel cannot run on a device, or None."""
    small = Level(64, 4, 1, 2)
    return KERNELS[PAIRS[words][0]].declines(*pair(words, small, maker(0, dtype, device)).tensors)


def works_on(
    words: str, level: Level, dtype: torch.dtype, device: torch.device, sets: int
) -> tuple[list[Work], list[Work], Pair]:
    """The kernel on several inputs, the launches whose place it takes on them, and the first of its pairs."""
    pairs = [pair(words, level, maker(seed_of(level, seed), dtype, device)) for seed in range(sets)]
    apart: list[Work] = [partial(_apart, given) for given in pairs if given.apart is not None]
    return [partial(launch, given) for given in pairs], apart, pairs[0]


def _apart(given: Pair) -> Tensor:
    assert given.apart is not None
    return last(given.apart())


@torch.no_grad()
def stage(card: Card, found: Found) -> None:
    """A row for each kernel, size and dtype; the most used dtype first, and odd sizes before large ones."""
    for dtype in card.sizes.dtypes:
        for level in (*card.sizes.odd, *card.sizes.levels):
            for words in PAIRS:
                name = str(dtype).removeprefix("torch.")
                with found.row(f"{words}, {name}, {level}") as row:
                    check(card, row, words, level, dtype)


def check(card: Card, row: dict, words: str, level: Level, dtype: torch.dtype) -> None:
    """Fill a row: the errors, and for real sizes the times."""
    device = card.device
    why = declines(words, device, dtype)
    if why is not None:
        row["result"] = f"not measured: {why}"
        return
    odd = level in card.sizes.odd
    # Where sizes are odd, rows begin at odd addresses too.
    compared = reference(words, level, dtype, device, PADDING - 1 if odd else PADDING)
    row["error"], row["plain error"] = compared.error(), compared.twin
    row["as exact"] = compared.as_exact(row["error"])
    del compared
    if odd or not row["as exact"]:
        return
    works, apart, given = works_on(words, level, dtype, device, card.sizes.input_sets)
    row["ms"] = milliseconds(works, device, card.sizes.repeats)
    row["plain ms"] = milliseconds([lambda: last(given.plain())], device, card.sizes.repeats)
    if apart:
        row["apart ms"] = milliseconds(apart, device, card.sizes.repeats)
    ceilings = card.kept.get("ceilings")
    if ceilings is not None:
        row["of the copy's rate"] = given.moved / (row["ms"] * 1e-3) / ceilings.bytes
        if given.work:
            row["of the product's rate"] = given.work / (row["ms"] * 1e-3) / ceilings.flops
