"""Each Triton kernel beside its plain twin, at the size of SD1.5's first level with 16 frames and guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.comparison import last
from ..ops.dispatch import KERNELS
from ..ops.pairs import PairOf, Results
from ..ops.report import operations
from .cases import Bench, Row
from .measure import Work

PAIRS: dict[str, tuple[str, PairOf]] = {
    words: (name, pair_of)
    for name in operations()
    for words, pair_of in KERNELS[name].pairs
    if words in KERNELS[name].rows
}
"""What is timed -> the kernel's name in KERNELS, and its input."""


@torch.no_grad()
def kernels(bench: Bench, clips: int, frames: int, side: int, channels: int = 320, inner: int = 10) -> list[Row]:
    """A row for each kernel, ``inner`` calls a sample; where one cannot run, its row says why."""
    rows = []
    for words, (name, pair_of) in PAIRS.items():
        case = f"kernel: {words}, {clips}x{frames}x{side}x{side}, {channels} channels"
        generator = torch.Generator(bench.device).manual_seed(0)

        def make(*shape: int, generator=generator) -> Tensor:
            return torch.randn(*shape, generator=generator, device=bench.device).to(bench.dtype)

        # A pair of small input asks for the reason without the memory of the large one.
        why = KERNELS[name].declines(*pair_of(make, 1, 2, 4, channels).tensors)
        if why is not None:
            rows.append(Row(case, "plain PyTorch", note=f"not measured: {why}"))
            continue
        pair = pair_of(make, clips, frames, side, channels)
        row = bench.compare(case, "plain PyTorch", _one(pair.kernel), _one(pair.plain), inner=inner)
        row.flops, row.moved = None, pair.moved
        if row.ours is not None and row.ratio:
            row.note = f"{100 * pair.moved / bench.ceilings.bytes / row.ours:.0f} % of the copy's bandwidth"
        rows.append(row)
    return rows


def _one(work: Callable[[], Results]) -> Work:
    return lambda: last(work())
