"""Each Triton kernel against float64, in memory full of NaN, and its time beside that of a copy of as many bytes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...ops.dispatch import KERNELS
from ..kernel_cases import PAIRS, Make, Pair, Results
from .sizes import Level
from .stages import Card, Found
from .timing import Work, milliseconds

PADDING = 8
"""Poisoned numbers before and behind each row; a multiple of what is read at once, so that real addresses stay."""


def maker(level: Level, dtype: torch.dtype, device: torch.device, seed: int, padding: int = 0, double: bool = False):
    """Makes random tensors, always the same ones for a seed: as they are, with NaN around each row, or in float64."""
    generator = torch.Generator(device).manual_seed(1000 * seed + level.channels)

    def make(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, device=device).to(dtype)
        if double:
            return values.double()
        if not padding:
            return values
        around = torch.full((*shape[:-1], shape[-1] + 2 * padding), float("nan"), device=device, dtype=dtype)
        around[..., padding:-padding] = values
        return around[..., padding:-padding]

    return make


def last(result: Results) -> Tensor:
    """The last of several results, which depends on all input."""
    return result[-1] if isinstance(result, tuple) else result


def launch(given: Pair) -> Tensor:
    """The kernel's last result."""
    return last(given.kernel())


def pair(words: str, level: Level, make: Make) -> Pair:
    return PAIRS[words][1](make, level.clips, level.frames, level.side, level.channels)


def poison(device: torch.device, result: Tensor) -> None:
    """Leave NaN in the memory that the next results of this size are likely to get."""
    for _ in range(4):
        torch.full(result.shape, float("nan"), dtype=result.dtype, device=device)


class Reference:
    """A kernel's input, what it gives in float64, and how far its plain twin is from that.

    Args:
        padding: numbers that are poisoned before and behind each row.
    """

    def __init__(self, words: str, level: Level, dtype: torch.dtype, device: torch.device, padding: int = 0) -> None:
        self.dtype, self.device = dtype, device
        self.exact = last(pair(words, level, maker(level, dtype, device, 0, double=True)).plain())
        self.given = pair(words, level, maker(level, dtype, device, 0, padding))
        self.twin = self._distance(last(self.given.plain()))

    def error(self) -> float:
        """The kernel's largest distance to float64, over the largest value; NaN where it gave one."""
        poison(self.device, self.exact.to(self.dtype))
        return self._distance(launch(self.given))

    def as_exact(self, error: float) -> bool:
        """Whether an error is no larger than the plain twin's, but for a rounding of the result."""
        return error <= 1.5 * self.twin + 2 * torch.finfo(self.dtype).eps

    def _distance(self, found: Tensor) -> float:
        return ((found.double() - self.exact).abs().max() / self.exact.abs().max()).item()


def declines(words: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a kernel cannot run on a device, or None."""
    small = Level(64, 4, 1, 2)
    return KERNELS[PAIRS[words][0]].declines(*pair(words, small, maker(small, dtype, device, 0)).tensors)


def works_on(
    words: str, level: Level, dtype: torch.dtype, device: torch.device, sets: int
) -> tuple[list[Work], list[Work], Pair]:
    """The kernel on several inputs, the launches whose place it takes on them, and the first of its pairs."""
    pairs = [pair(words, level, maker(level, dtype, device, seed)) for seed in range(sets)]
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
    reference = Reference(words, level, dtype, device, PADDING - 1 if odd else PADDING)
    row["error"], row["plain error"] = reference.error(), reference.twin
    row["as exact"] = reference.as_exact(row["error"])
    del reference
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
