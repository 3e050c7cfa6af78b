"""Two activations and a row of channels, summed in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..layout import row_stride
from ..tuning import tuned, warps

ENTRIES = 2048
"""Entries of a program."""

BLOCK = 256
"""Channels of a program, at most."""


@triton.jit
def _residual_sum(a, b, bias, out, count, channels, a_row, b_row, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = column < channels
    inside = (row < count) & held[None, :]
    total = tl.load(a + row * a_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    total += tl.load(b + row * b_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + column, mask=held, other=0.0).to(tl.float32)[None, :]
    tl.store(out + row * channels + column[None, :], total.to(out.dtype.element_ty), mask=inside)


def launch(hidden: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
    """hidden and skip (N, C, H, W) with channels last in memory and pixels at one distance, bias (C,)."""
    n, c, h, w = hidden.shape
    out = hidden.new_empty(n, h, w, c)
    if out.numel():
        chosen = tuned("residual_sum", hidden.device, hidden.dtype, width=c)
        block = min(chosen.get("BLOCK", BLOCK), triton.next_power_of_2(c))
        rows = chosen.get("ROWS", max(1, ENTRIES // block))
        grid = (triton.cdiv(n * h * w, rows), triton.cdiv(c, block))
        distances = (row_stride(t.permute(0, 2, 3, 1)) for t in (hidden, skip))
        given = hidden, skip, bias.contiguous(), out, n * h * w, c
        _residual_sum[grid](*given, *distances, ROWS=rows, BLOCK=block, **warps(chosen))
    return out.permute(0, 3, 1, 2)
