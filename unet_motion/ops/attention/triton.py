"""Attention of many short sequences: several of them in one tile, kept apart by a mask."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dispatch import interpreted
from ..tuning import tuned, warps
from .layout import empty_result

TILE = 64

CHUNK = 64
"""Channels of a head that are read at once: wider tiles of float32 overflow the shared memory of most GPUs."""


@triton.jit
def _attention(
    q, k, v, mask, out, count, heads, frames, width, scale,
    q_n, q_h, q_f, q_d, k_n, k_h, k_f, k_d, v_n, v_h, v_f, v_d, m_n, m_h, m_q, m_k, o_n, o_h, o_f, o_d,
    MASK: tl.constexpr, FRAMES: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    head = (tl.program_id(0) % heads).to(tl.int64)
    row = tl.arange(0, TILE)
    sequence = (tl.program_id(0) // heads) * (TILE // FRAMES) + row // FRAMES
    frame = row % FRAMES
    inside = (sequence < count) & (frame < frames)
    n = sequence.to(tl.int64)
    f = frame.to(tl.int64)
    q_row = q + head * q_h + (n * q_n + f * q_f)[:, None]
    k_row = k + head * k_h + (n * k_n + f * k_f)[:, None]
    v_row = v + head * v_h + (n * v_n + f * v_f)[:, None]
    out_row = out + head * o_h + (n * o_n + f * o_f)[:, None]
    scores = tl.zeros((TILE, TILE), tl.float32)
    for chunk in tl.range(CHUNKS, num_stages=1):
        column = (chunk * CHUNK + tl.arange(0, CHUNK)).to(tl.int64)[None, :]
        both = inside[:, None] & (column < width)
        queries = tl.load(q_row + column * q_d, mask=both, other=0.0)
        keys = tl.load(k_row + column * k_d, mask=both, other=0.0)
        if WIDEN:
            queries, keys = queries.to(tl.float32), keys.to(tl.float32)
        scores += tl.dot(queries, tl.trans(keys), input_precision="ieee")
    scores *= scale
    same = sequence[:, None] == sequence[None, :]
    if MASK:
        place = mask + head * m_h + (n * m_n + f * m_q)[:, None] + (f * m_k)[None, :]
        scores += tl.load(place, mask=same & inside[:, None] & inside[None, :], other=0.0).to(tl.float32)
    # A row outside sees itself, so that no softmax is over nothing.
    together = same & (inside[None, :] | (row[:, None] == row[None, :]))
    scores = tl.where(together, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    total = tl.sum(weights, axis=1)
    for chunk in tl.range(CHUNKS, num_stages=1):
        column = (chunk * CHUNK + tl.arange(0, CHUNK)).to(tl.int64)[None, :]
        both = inside[:, None] & (column < width)
        values = tl.load(v_row + column * v_d, mask=both, other=0.0)
        if WIDEN:
            values = values.to(tl.float32)
        result = tl.dot(weights.to(values.dtype), values, input_precision="ieee") / total[:, None]
        tl.store(out_row + column * o_d, result.to(out.dtype.element_ty), mask=both)


def launch(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """(N, heads, F, dim) each, any strides; F up to 64; the mask broadcasts to (N, heads, F, F)."""
    n, heads, frames, width = query.shape
    out = empty_result(query)
    if not out.numel():
        return out
    padded = triton.next_power_of_2(frames)
    chosen = tuned("temporal_attention", query.device, query.dtype, frames=frames, width=width)
    tile = max(chosen.get("TILE", TILE), padded)
    tiles = triton.cdiv(n, tile // padded)
    chunk = min(chosen.get("CHUNK", CHUNK), max(16, triton.next_power_of_2(width)))
    mask_strides = (0,) * 4 if mask is None else mask.expand(n, heads, frames, frames).stride()
    _attention[(tiles * heads,)](
        query, key, value, query if mask is None else mask, out, n, heads, frames, width, scale,
        *query.stride(), *key.stride(), *value.stride(), *mask_strides, *out.stride(),
        MASK=mask is not None, FRAMES=padded, TILE=tile, CHUNKS=triton.cdiv(width, chunk), CHUNK=chunk,
        WIDEN=interpreted() and query.dtype == torch.bfloat16,  # the interpreter multiplies bfloat16 as integers
        **warps(chosen),
    )  # fmt: skip
    return out
