"""GEGLU in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..layout import row_stride
from ..tuning import tuned, warps

ENTRIES = 2048
"""Output entries of a program."""

BLOCK = 256
"""Channels of a program; four times a UNet's widths are multiples of it."""


@triton.jit
def _geglu(x, out, count, width, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < count) & (column < width)
    start = x + row * stride + column
    value = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(start + width, mask=inside, other=0.0).to(tl.float32)
    gelu = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + row * width + column, (value * gelu).to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor) -> Tensor:
    """x (..., 2 * H): rows of dense channels at one distance."""
    width = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], width)
    if out.numel():
        chosen = tuned("geglu", x.device, x.dtype, width=width)
        count, block = out.numel() // width, min(chosen.get("BLOCK", BLOCK), triton.next_power_of_2(width))
        rows = chosen.get("ROWS", ENTRIES // block)
        grid = (triton.cdiv(count, rows), triton.cdiv(width, block))
        _geglu[grid](x, out, count, width, row_stride(x), ROWS=rows, BLOCK=block, **warps(chosen))
    return out
