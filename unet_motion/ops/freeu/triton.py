"""FreeU in channels-last memory: seven coefficients of each channel, then one pass over both inputs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import empty_result, row_stride
from ..triton_pieces import pieces
from ..tuning import tuned, warps

PIECE = 64
"""Pixels of a tile."""

WAVES = tl.constexpr(7)
"""A constant, and cosine and sine of each of three frequencies."""


@triton.jit
def _sine(turns):
    """sin(2 pi turns), folded to a quarter turn so that float32 holds it; the hardware's own sine is too coarse."""
    t = turns - tl.floor(turns + 0.5)
    t = tl.where(t > 0.25, 0.5 - t, tl.where(t < -0.25, -0.5 - t, t))
    a = t * 6.283185307179586
    b = a * a
    series = 1.0 - b / 110.0 * (1.0 - b / 156.0)
    series = 1.0 - b / 42.0 * (1.0 - b / 72.0 * series)
    return a * (1.0 - b / 6.0 * (1.0 - b / 20.0 * series))


@triton.jit
def _waves(pixel, height, width):
    """Cosine and sine of a turn over the height, over the width, and over both."""
    y = (pixel // width).to(tl.float32) / height
    x = (pixel % width).to(tl.float32) / width
    cos_y, sin_y, cos_x, sin_x = _sine(y + 0.25), _sine(y), _sine(x + 0.25), _sine(x)
    return cos_y, sin_y, cos_x, sin_x, cos_y * cos_x - sin_y * sin_x, sin_y * cos_x + cos_y * sin_x


@triton.jit
def _coefficients(
    skip, out, height, width, channels, stride, TALL: tl.constexpr, WIDE: tl.constexpr, PIECES: tl.constexpr,
    PIECE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = column < channels
    pixels = height * width
    mean = tl.zeros((BLOCK,), tl.float32)
    a, b, c, d, e, f = mean, mean, mean, mean, mean, mean
    for piece in range(PIECES):
        pixel = piece * PIECE + tl.arange(0, PIECE)
        inside = (pixel < pixels)[:, None] & held[None, :]
        place = (n * pixels + pixel)[:, None] * stride + column[None, :]
        values = tl.load(skip + place, mask=inside, other=0.0).to(tl.float32)
        cos_y, sin_y, cos_x, sin_x, cos_both, sin_both = _waves(pixel, height, width)
        mean += tl.sum(values, axis=0)
        if TALL:
            a += tl.sum(values * cos_y[:, None], axis=0)
            b += tl.sum(values * sin_y[:, None], axis=0)
        if WIDE:
            c += tl.sum(values * cos_x[:, None], axis=0)
            d += tl.sum(values * sin_x[:, None], axis=0)
        if TALL and WIDE:
            e += tl.sum(values * cos_both[:, None], axis=0)
            f += tl.sum(values * sin_both[:, None], axis=0)
    place = out + n * WAVES * channels + column
    tl.store(place, mean / pixels, mask=held)
    tl.store(place + channels, a / pixels, mask=held)
    tl.store(place + 2 * channels, b / pixels, mask=held)
    tl.store(place + 3 * channels, c / pixels, mask=held)
    tl.store(place + 4 * channels, d / pixels, mask=held)
    tl.store(place + 5 * channels, e / pixels, mask=held)
    tl.store(place + 6 * channels, f / pixels, mask=held)


@triton.jit
def _means(
    hidden, out, rows, channels, stride, PIECES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.float32)
    for piece in range(PIECES):
        column = piece * BLOCK + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (column < channels)[None, :]
        values = tl.load(hidden + row[:, None] * stride + column[None, :], mask=inside, other=0.0)
        total += tl.sum(values.to(tl.float32), axis=1)
    tl.store(out + row, total / channels, mask=row < rows)


@triton.jit
def _bounds(means, out, pixels, PIECES: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    low = tl.full((BLOCK,), float("inf"), tl.float32)
    high = tl.full((BLOCK,), float("-inf"), tl.float32)
    for piece in range(PIECES):
        pixel = piece * BLOCK + tl.arange(0, BLOCK)
        low = tl.minimum(low, tl.load(means + n * pixels + pixel, mask=pixel < pixels, other=float("inf")))
        high = tl.maximum(high, tl.load(means + n * pixels + pixel, mask=pixel < pixels, other=float("-inf")))
    tl.store(out + 2 * n, tl.min(low, axis=0))
    tl.store(out + 2 * n + 1, tl.max(high, axis=0))


@triton.jit
def _concat(
    hidden, skip, out, coefficients, means, bounds, active, b, change, height, width, half, left, right,
    hidden_stride, skip_stride,
    STRUCTURE: tl.constexpr, FILTER: tl.constexpr, SWITCH: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
    PIECE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    pixels = height * width
    here = pixel < pixels
    row = n * pixels + pixel
    from_hidden = column < left
    other = column - left
    from_skip = (other >= 0) & (other < right)
    if SWITCH:
        on = tl.load(active) != 0
        b, change = tl.where(on, b, 1.0), tl.where(on, change, 0.0)
    backbone = tl.load(
        hidden + row[:, None] * hidden_stride + column[None, :], mask=here[:, None] & from_hidden[None, :], other=0.0
    ).to(tl.float32)
    if STRUCTURE:
        low, high = tl.load(bounds + 2 * n), tl.load(bounds + 2 * n + 1)
        mean = tl.load(means + row, mask=here, other=0.0)
        # A constant map has no structure to follow: its factor is 1.
        factor = 1.0 + (b - 1.0) * ((mean - low) / tl.maximum(high - low, 1.1754943508222875e-38))
    else:
        factor = tl.zeros((PIECE,), tl.float32) + b
    result = tl.where((column < half)[None, :], backbone * factor[:, None], backbone)
    skipped = tl.load(
        skip + row[:, None] * skip_stride + other[None, :], mask=here[:, None] & from_skip[None, :], other=0.0
    ).to(tl.float32)
    if FILTER:
        cos_y, sin_y, cos_x, sin_x, cos_both, sin_both = _waves(pixel, height, width)
        place = coefficients + n * WAVES * right + other
        wave = tl.load(place, mask=from_skip, other=0.0)[None, :] + tl.zeros((PIECE, BLOCK), tl.float32)
        if TALL:
            wave += cos_y[:, None] * tl.load(place + right, mask=from_skip, other=0.0)[None, :]
            wave += sin_y[:, None] * tl.load(place + 2 * right, mask=from_skip, other=0.0)[None, :]
        if WIDE:
            wave += cos_x[:, None] * tl.load(place + 3 * right, mask=from_skip, other=0.0)[None, :]
            wave += sin_x[:, None] * tl.load(place + 4 * right, mask=from_skip, other=0.0)[None, :]
        if TALL and WIDE:
            wave += cos_both[:, None] * tl.load(place + 5 * right, mask=from_skip, other=0.0)[None, :]
            wave += sin_both[:, None] * tl.load(place + 6 * right, mask=from_skip, other=0.0)[None, :]
        skipped += change * wave
    result = tl.where(from_hidden[None, :], result, skipped)
    place = row[:, None] * (left + right) + column[None, :]
    inside = here[:, None] & (column < left + right)[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


def launch(hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None) -> Tensor:
    """hidden (N, C, H, W) and skip (N, D, H, W), whose pixels lie in channels-last order at one distance each."""
    (n, left, height, width), right = hidden.shape, skip.shape[1]
    out = empty_result(hidden, skip)
    if not out.numel():
        return out
    pixels, filtered = height * width, s != 1 and right > 0
    strides = row_stride(hidden.permute(0, 2, 3, 1)), row_stride(skip.permute(0, 2, 3, 1))
    axes = dict(TALL=height > 1, WIDE=width > 1)
    coefficients = means = bounds = hidden
    if filtered:
        coefficients = torch.empty(n, WAVES.value, right, dtype=torch.float32, device=hidden.device)
        block = min(64, triton.next_power_of_2(right))
        _coefficients[(n, triton.cdiv(right, block))](
            skip, coefficients, height, width, right, strides[1], **axes,
            PIECES=pieces(pixels, PIECE), PIECE=PIECE, BLOCK=block,
        )  # fmt: skip
    if structure:
        means = torch.empty(n, pixels, dtype=torch.float32, device=hidden.device)
        bounds = torch.empty(n, 2, dtype=torch.float32, device=hidden.device)
        block = min(256, triton.next_power_of_2(left))
        _means[(triton.cdiv(n * pixels, 16),)](
            hidden, means, n * pixels, left, strides[0], PIECES=pieces(left, block), ROWS=16, BLOCK=block
        )
        block = min(1024, triton.next_power_of_2(pixels))
        _bounds[(n,)](means, bounds, pixels, PIECES=pieces(pixels, block), BLOCK=block)
    chosen = tuned("freeu", hidden.device, hidden.dtype, left=left, right=right, pixels=pixels)
    piece, block = chosen.get("PIECE", PIECE), min(chosen.get("BLOCK", 64), triton.next_power_of_2(left + right))
    _concat[(n, triton.cdiv(pixels, piece), triton.cdiv(left + right, block))](
        hidden, skip, out, coefficients, means, bounds, hidden if active is None else active, b, s - 1, height, width,
        left // 2, left, right, *strides,
        STRUCTURE=structure, FILTER=filtered, SWITCH=active is not None, **axes, PIECE=piece, BLOCK=block,
        **warps(chosen),
    )  # fmt: skip
    return out
