"""A product whose epilogue is GEGLU: a program computes the values and the gates of the same columns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...dispatch import interpreted
from ...layout import row_stride
from ...tuning import capability, tuned
from ..triton import _gelu
from . import NAME, sizes_of

SMALL = {"ROWS": 64, "BLOCK": 32, "DEPTH": 16, "GROUP": 8, "num_warps": 4, "num_stages": 2}
"""For float32, whose products take a thread's own registers, and for cards of little shared memory."""

ALIGNED = 16
"""Channels of which rows are a multiple where a load takes many at once; others take the registers of large tiles."""

LARGE = {
    "8.0": {"ROWS": 128, "BLOCK": 64, "DEPTH": 64, "GROUP": 8, "num_warps": 8, "num_stages": 3},
    "9.0": {"ROWS": 128, "BLOCK": 128, "DEPTH": 64, "GROUP": 8, "num_warps": 8, "num_stages": 3},
}
"""For 16 bits, by compute capability: not measured, but as large as registers and shared memory hold."""


@triton.jit
def _tile(count, width, ROWS: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Rows and columns of this program.

    Programs of GROUP tiles of rows follow each other, so that the weights that they share stay in the L2 cache.
    """
    blocks = tl.cdiv(width, BLOCK)
    first = tl.program_id(0) // (GROUP * blocks) * GROUP
    height = tl.minimum(tl.cdiv(count, ROWS) - first, GROUP)
    place = tl.program_id(0) % (GROUP * blocks)
    row = (first + place % height) * ROWS + tl.arange(0, ROWS)
    return row, (place // height) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _geglu_product(
    x, weight, bias, out, count, width, x_row, weight_row, CHANNELS: tl.constexpr,
    EXACT: tl.constexpr, BIAS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    row, column = _tile(count, width, ROWS, BLOCK, GROUP)
    # Beyond the edges the last row and column are read again, and not written.
    read = tl.minimum(row, count - 1).to(tl.int64)
    held = tl.minimum(column, width - 1).to(tl.int64)
    inner = tl.arange(0, DEPTH)
    tokens = x + read[:, None] * x_row + inner[None, :]
    of_value = weight + held[None, :] * weight_row + inner[:, None]
    of_gate = weight + (held + width)[None, :] * weight_row + inner[:, None]
    value = tl.zeros((ROWS, BLOCK), tl.float32)
    gate = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, CHANNELS, DEPTH):
        if CHANNELS % DEPTH == 0:
            a, b, c = tl.load(tokens), tl.load(of_value), tl.load(of_gate)
        else:
            left = inner < CHANNELS - start
            a = tl.load(tokens, mask=left[None, :], other=0.0)
            b = tl.load(of_value, mask=left[:, None], other=0.0)
            c = tl.load(of_gate, mask=left[:, None], other=0.0)
        if WIDE:
            a, b, c = a.to(tl.float32), b.to(tl.float32), c.to(tl.float32)
        value = tl.dot(a, b, value, input_precision=PRECISION)
        gate = tl.dot(a, c, gate, input_precision=PRECISION)
        tokens += DEPTH
        of_value += DEPTH
        of_gate += DEPTH
    if BIAS:
        value += tl.load(bias + held).to(tl.float32)[None, :]
        gate += tl.load(bias + width + held).to(tl.float32)[None, :]
    result = (value * _gelu(gate, EXACT)).to(out.dtype.element_ty)
    inside = (row < count)[:, None] & (column < width)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * width + column[None, :], result, mask=inside)


def launch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., C), weight (2 * H, C), bias (2 * H,): rows of dense channels at one distance each."""
    width = len(weight) // 2
    out = x.new_empty(*x.shape[:-1], width)
    if out.numel():
        use = {**own(x), **tuned(NAME, x.device, x.dtype, **sizes_of(x, weight))}
        count = out.numel() // width
        grid = (triton.cdiv(count, use["ROWS"]) * triton.cdiv(width, use["BLOCK"]),)
        _geglu_product[grid](
            x, weight, weight if bias is None else bias.contiguous(), out, count, width, row_stride(x),
            row_stride(weight), CHANNELS=x.shape[-1], EXACT=x.dtype == torch.float32, BIAS=bias is not None,
            WIDE=x.dtype == torch.bfloat16 and interpreted(), PRECISION=precision(), **use,
        )  # fmt: skip
    return out


def own(x: Tensor) -> Mapping[str, int]:
    """Tiles, warps and stages for an input (..., C) where none were measured."""
    if x.device.type != "cuda" or x.dtype == torch.float32 or x.shape[-1] % ALIGNED:
        return SMALL
    return LARGE.get(capability(x.device), SMALL)


def precision() -> str:
    """Of products of float32, as torch's own are asked to be."""
    matmul = torch.backends.cuda.matmul
    asked = getattr(matmul, "fp32_precision", None)  # of newer versions, which may refuse the older question
    return "tf32" if asked == "tf32" or (asked is None and matmul.allow_tf32) else "ieee"
