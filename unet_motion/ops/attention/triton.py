"""Attention of many short sequences: one in a tile, or several that a mask keeps apart."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dispatch import interpreted
from ..tuning import tuned
from .layout import empty_result

TILE = 16
"""Rows of a tile, at least: as many as one warp multiplies at once."""

CHUNK = 32
"""Channels of a head that are read at once, at most: more are filled up in vain, and float32 runs out of registers."""

UNIT = 8
"""Strides are given in units of so many entries where they can be, so that the compiler reads 16 bytes at once."""


@triton.jit
def _attention(
    q, k, v, mask, out, count, tiles, heads, frames, scale,
    q_b, q_n, q_h, q_f, q_d, k_b, k_n, k_h, k_f, k_d, v_b, v_n, v_h, v_f, v_d,
    m_b, m_n, m_h, m_q, m_k, o_b, o_n, o_h, o_f, o_d,
    MASK: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, FRAMES: tl.constexpr, TILE: tl.constexpr,
    CHUNK: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    head = (tl.program_id(0) % heads).to(tl.int64)
    tile = tl.program_id(0) // heads
    clip = (tile // tiles).to(tl.int64)
    row = tl.arange(0, TILE)
    sequence = (tile % tiles) * (TILE // FRAMES) + row // FRAMES
    frame = row % FRAMES
    inside = (sequence < count) & (frame < frames)
    n = sequence.to(tl.int64)
    f = frame.to(tl.int64)
    q_row = q + (clip * q_b + head * q_h) * UNIT + ((n * q_n + f * q_f) * UNIT)[:, None]
    k_row = k + (clip * k_b + head * k_h) * UNIT + ((n * k_n + f * k_f) * UNIT)[:, None]
    v_row = v + (clip * v_b + head * v_h) * UNIT + ((n * v_n + f * v_f) * UNIT)[:, None]
    out_row = out + (clip * o_b + head * o_h) * UNIT + ((n * o_n + f * o_f) * UNIT)[:, None]
    scores = tl.zeros((TILE, TILE), tl.float32)
    for start in tl.static_range(0, WIDTH, CHUNK):
        column = (start + tl.arange(0, CHUNK)).to(tl.int64)[None, :]
        both = inside[:, None] & (column < WIDTH)
        queries = tl.load(q_row + column * q_d, mask=both, other=0.0)
        keys = tl.load(k_row + column * k_d, mask=both, other=0.0)
        if WIDEN:
            queries, keys = queries.to(tl.float32), keys.to(tl.float32)
        scores += tl.dot(queries, tl.trans(keys), input_precision="ieee")
    scores *= scale
    same = sequence[:, None] == sequence[None, :]
    if MASK:
        place = mask + clip * m_b + head * m_h + (n * m_n + f * m_q)[:, None] + (f * m_k)[None, :]
        scores += tl.load(place, mask=same & inside[:, None] & inside[None, :], other=0.0).to(tl.float32)
    # A row outside sees itself, so that no softmax is over nothing.
    together = same & (inside[None, :] | (row[:, None] == row[None, :]))
    scores = tl.where(together, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    rate = 1.0 / tl.sum(weights, axis=1)
    for start in tl.static_range(0, WIDTH, CHUNK):
        column = (start + tl.arange(0, CHUNK)).to(tl.int64)[None, :]
        both = inside[:, None] & (column < WIDTH)
        values = tl.load(v_row + column * v_d, mask=both, other=0.0)
        if WIDEN:
            values = values.to(tl.float32)
        result = tl.dot(weights.to(values.dtype), values, input_precision="ieee") * rate[:, None]
        tl.store(out_row + column * o_d, result.to(out.dtype.element_ty), mask=both)


def launch(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """(B, N, heads, F, dim) each, or without B; any strides; F up to 64; the mask broadcasts to the scores."""
    out = empty_result(query)
    if not out.numel():
        return out
    given = [t if t.dim() == 5 else t[None] for t in (query, key, value, out)]
    clips, n, heads, frames, width = given[0].shape
    padded = triton.next_power_of_2(frames)
    chosen = tuned("temporal_attention", query.device, query.dtype, frames=frames, width=width)
    tile = max(chosen.get("TILE", TILE), padded)
    tiles = triton.cdiv(n, tile // padded)
    unit = UNIT if all(stride % UNIT == 0 for t in given for stride in t.stride()[:-1]) else 1
    q, k, v, o = ((*(stride // unit for stride in t.stride()[:-1]), t.stride(-1)) for t in given)
    m: tuple[int, ...] = (0,) * 5
    if mask is not None:
        m = mask.expand(*query.shape[:-1], frames).stride()
        m = m if len(m) == 5 else (0, *m)
    _attention[(clips * tiles * heads,)](
        query, key, value, query if mask is None else mask, out, n, tiles, heads, frames, scale, *q, *k, *v, *m, *o,
        MASK=mask is not None, WIDTH=width, UNIT=unit, FRAMES=padded, TILE=tile,
        CHUNK=min(chosen.get("CHUNK", _chunk(query)), max(16, triton.next_power_of_2(width))),
        WIDEN=interpreted() and query.dtype == torch.bfloat16,  # the interpreter multiplies bfloat16 as integers
        num_warps=chosen.get("num_warps", _warps(tile, query)),
    )  # fmt: skip
    return out


def _chunk(query: Tensor) -> int:
    """16, or more where that leaves nothing to fill up."""
    width = query.shape[-1]
    return 16 if query.dtype == torch.float32 else max(16, min(CHUNK, width & -width))


def _warps(tile: int, query: Tensor) -> int:
    """One for each 16 rows; products in float32 take more registers."""
    return tile // 8 if query.dtype == torch.float32 and tile > 16 else tile // 16
