"""Sum, layer norm and position row in one pass, whole rows of channels in registers."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..layout import row_stride
from ..tuning import tuned

ENTRIES = 1024
"""Entries of a program's tile, at least: narrow tokens share a program."""

OF_A_WARP = 2048
"""Entries that one warp holds, so that it sums a row without waiting for others."""


@triton.jit
def _layer_norm(
    x, residual, total, weight, bias, table, ahead, out, count, width, pixels, frames,
    x_row, residual_row, table_row, eps,
    ADD: tl.constexpr, BIAS: tl.constexpr, TABLE: tl.constexpr, AHEAD: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = number.to(tl.int64)
    column = tl.arange(0, BLOCK)
    held = column < width
    inside = (number < count)[:, None] & held[None, :]
    values = tl.load(x + row[:, None] * x_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    place = row[:, None] * width + column[None, :]
    if ADD:
        values += tl.load(residual + row[:, None] * residual_row + column[None, :], mask=inside, other=0.0)
        # What is normalised is what the residual stream carries on: the rounded sum.
        rounded = values.to(total.dtype.element_ty)
        values = rounded.to(tl.float32)
        if AHEAD:
            more = tl.load(ahead + column, mask=held, other=0.0).to(tl.float32)[None, :]
            rounded = (values + more).to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
    mean = tl.sum(values, axis=1) / width
    centred = tl.where(inside, values - mean[:, None], 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / width + eps)
    y = centred * rate[:, None] * tl.load(weight + column, mask=held, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        y += tl.load(bias + column, mask=held, other=0.0).to(tl.float32)[None, :]
    if TABLE:
        frame = ((number // pixels) % frames).to(tl.int64)
        y += tl.load(table + frame[:, None] * table_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


def launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, pos_emb: Tensor | None, eps: float,
    ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x and residual (..., C), pos_emb (F, C) with x (..., F, P, C): rows of dense channels at one distance each.

    ``ahead`` (C,) is added to the sum only, behind the norm.
    """
    width = x.shape[-1]
    out = x.new_empty(x.shape)
    total = x if residual is None else x.new_empty(x.shape)
    if not out.numel():
        return total, out
    count = out.numel() // width
    block = triton.next_power_of_2(width)
    chosen = tuned("layer_norm", x.device, x.dtype, width=width)
    together = chosen.get("ROWS", max(1, ENTRIES // block))
    frames, pixels = x.shape[-3:-1] if pos_emb is not None else (1, 1)
    alone = max(1, together * block // OF_A_WARP)
    _layer_norm[(triton.cdiv(count, together),)](
        x, x if residual is None else residual, total, weight.contiguous(),
        weight if bias is None else bias.contiguous(), weight if pos_emb is None else pos_emb,
        weight if ahead is None else ahead.contiguous(), out,
        count, width, pixels, frames, row_stride(x), 0 if residual is None else row_stride(residual),
        0 if pos_emb is None else row_stride(pos_emb), eps,
        ADD=residual is not None, BIAS=bias is not None, TABLE=pos_emb is not None, AHEAD=ahead is not None,
        ROWS=together, BLOCK=block, num_warps=chosen.get("num_warps", alone),
    )  # fmt: skip
    return total, out
