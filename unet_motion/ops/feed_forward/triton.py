"""GEGLU in one pass."""

from __future__ import annotations

import torch
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
def _upper_tail(x):
    """The normal distribution's part above x >= 0, erfc(x / sqrt(2)) / 2, to 7e-6 of itself up to 6, then below 1e-9.

    Its logarithm to the base 2 as a polynomial, minimax over 0 to 6: half as many instructions as erf.
    """
    y = -1.83481452e-06 * x + 6.15983545e-05
    y = y * x - 0.000930525316
    y = y * x + 0.00850789271
    y = y * x - 0.0539600727
    y = y * x - 0.45846439
    y = y * x - 1.15125105
    return tl.exp2(y * x - 0.999995294)


@triton.jit
def _gelu(gate, EXACT: tl.constexpr):
    """By erf for float32, else by the tail, whose error no 16 bits hold."""
    if EXACT:
        gelu = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        tail = _upper_tail(tl.abs(gate))
        gelu = gate * tl.where(gate > 0, 1.0 - tail, tail)
    return gelu


@triton.jit
def _geglu(x, out, count, width, stride, EXACT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < count) & (column < width)
    start = x + row * stride + column
    value = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(start + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (value * _gelu(gate, EXACT)).to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor) -> Tensor:
    """x (..., 2 * H): rows of dense channels at one distance."""
    width = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], width)
    if out.numel():
        chosen = tuned("geglu", x.device, x.dtype, width=width)
        count, block = out.numel() // width, min(chosen.get("BLOCK", BLOCK), triton.next_power_of_2(width))
        rows = chosen.get("ROWS", max(1, ENTRIES // block))
        grid = (triton.cdiv(count, rows), triton.cdiv(width, block))
        exact = x.dtype == torch.float32
        _geglu[grid](x, out, count, width, row_stride(x), EXACT=exact, ROWS=rows, BLOCK=block, **warps(chosen))
    return out
