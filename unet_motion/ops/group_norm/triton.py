"""Group norm in two passes over channels-last memory: means and deviations of pieces, then scale, shift and SiLU.

Whole rows of channels are read, because a group's few channels alone would waste most of each memory transaction. Of
few rows a program holds all of a group, and one pass is enough.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_pieces import pieces as loops
from ..tuning import tuned, warps

PIECE = 64
"""Rows of a piece."""

BLOCK = 64
"""Channels of a program, at most."""

ENTRIES = 2048
"""Pieces times channels of a group that are combined at once, at most."""

MANY_PIECES = 64
"""More are combined by programs of twice the size, of which there are few then: one for each group of a clip."""

HELD = 16384
"""Rows times channels of a group that one program holds, at most."""

OF_A_WARP = 1024
"""Of those, what one warp holds."""


@triton.jit
def _whole(
    x, out, weight, bias, added, rows, channels, groups, each, added_row, x_n, x_row, eps,
    BIAS: tl.constexpr, ADD: tl.constexpr, SILU: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A group of one clip or frame."""
    n = (tl.program_id(0) // groups).to(tl.int64)
    column = tl.arange(0, BLOCK)
    held = column < WIDTH
    channel = (tl.program_id(0) % groups) * WIDTH + column
    row = tl.arange(0, ROWS).to(tl.int64)
    inside = (row < rows)[:, None] & held[None, :]
    values = tl.load(x + n * x_n + row[:, None] * x_row + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    if ADD:
        move = tl.load(added + (n // each) * added_row + channel, mask=held, other=0.0).to(tl.float32)
        values = tl.where(inside, values + move[None, :], 0.0)
    size = rows * 1.0 * WIDTH
    centred = tl.where(inside, values - tl.sum(tl.sum(values, axis=1), axis=0) / size, 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(tl.sum(centred * centred, axis=1), axis=0) / size + eps)
    y = centred * (tl.load(weight + channel, mask=held, other=0.0).to(tl.float32) * rate)[None, :]
    if BIAS:
        y += tl.load(bias + channel, mask=held, other=0.0).to(tl.float32)[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + (n * rows + row)[:, None] * channels + channel[None, :], y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _statistics(x, mean, deviation, rows, channels, pieces, x_n, x_row, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    # Pieces and clips share the first axis of the grid: the others end at 65535.
    n = (tl.program_id(0) // pieces).to(tl.int64)
    piece = tl.program_id(0) % pieces
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = piece.to(tl.int64) * PIECE + tl.arange(0, PIECE)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    values = tl.load(x + n * x_n + row[:, None] * x_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(rows - piece * PIECE, PIECE).to(tl.float32)
    average = tl.sum(values, axis=0) / count
    difference = tl.where(inside, values - average[None, :], 0.0)
    place = (n * pieces + piece) * channels + column
    tl.store(mean + place, average, mask=column < channels)
    tl.store(deviation + place, tl.sum(difference * difference, axis=0), mask=column < channels)


@triton.jit
def _combine(
    mean, deviation, weight, bias, added, scale, shift, rows, channels, pieces, width, each, added_row, eps,
    BIAS: tl.constexpr, ADD: tl.constexpr, LOOPS: tl.constexpr, PIECE: tl.constexpr, TOGETHER: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Scale and shift of one group's channels from the pieces' means and squared deviations (Chan et al., 1979).

    What is added to a whole channel moves its means and no deviation: no pass over the tokens has to know it.
    """
    n = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    held = column < width
    channel = tl.program_id(1) * width + column
    size = rows * 1.0 * width
    move = tl.zeros((WIDTH,), tl.float32)
    if ADD:
        move += tl.load(added + (n // each) * added_row + channel, mask=held, other=0.0).to(tl.float32)
    total = tl.zeros((TOGETHER, WIDTH), tl.float32)
    for i in range(LOOPS):
        piece = i * TOGETHER + tl.arange(0, TOGETHER)
        inside = (piece < pieces)[:, None] & held[None, :]
        place = (n * pieces + piece)[:, None] * channels + channel[None, :]
        count = tl.minimum(rows - piece * PIECE, PIECE).to(tl.float32)
        average = tl.load(mean + place, mask=inside, other=0.0) + move[None, :]
        total += tl.where(inside, average * count[:, None], 0.0)
    whole = tl.sum(tl.sum(total, axis=1), axis=0) / size
    total = tl.zeros((TOGETHER, WIDTH), tl.float32)
    for i in range(LOOPS):
        piece = i * TOGETHER + tl.arange(0, TOGETHER)
        inside = (piece < pieces)[:, None] & held[None, :]
        place = (n * pieces + piece)[:, None] * channels + channel[None, :]
        count = tl.minimum(rows - piece * PIECE, PIECE).to(tl.float32)
        apart = tl.load(mean + place, mask=inside, other=0.0) + move[None, :] - whole
        spread = tl.load(deviation + place, mask=inside, other=0.0)
        total += tl.where(inside, spread + apart * apart * count[:, None], 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(tl.sum(total, axis=1), axis=0) / size + eps)
    a = tl.load(weight + channel, mask=held, other=0.0).to(tl.float32) * rate
    b = (move - whole) * a
    if BIAS:
        b += tl.load(bias + channel, mask=held, other=0.0).to(tl.float32)
    tl.store(scale + n * channels + channel, a, mask=held)
    tl.store(shift + n * channels + channel, b, mask=held)


@triton.jit
def _apply(
    x, out, scale, shift, rows, channels, pieces, x_n, x_row,
    SILU: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // pieces).to(tl.int64)
    row = (tl.program_id(0) % pieces).to(tl.int64) * PIECE + tl.arange(0, PIECE)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    a = tl.load(scale + n * channels + column, mask=column < channels, other=0.0)
    b = tl.load(shift + n * channels + column, mask=column < channels, other=0.0)
    values = tl.load(x + n * x_n + row[:, None] * x_row + column[None, :], mask=inside, other=0.0)
    y = values.to(tl.float32) * a[None, :] + b[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + (n * rows + row)[:, None] * channels + column[None, :], y.to(out.dtype.element_ty), mask=inside)


def one_launch(rows: int, channels: int, groups: int) -> bool:
    """Whether a program can hold all of a group (rows, channels / groups)."""
    return triton.next_power_of_2(rows) * triton.next_power_of_2(channels // groups) <= HELD


def launch(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool, added: Tensor | None
) -> Tensor:
    """tokens (N, M, C) and added (R, C), with dense channels."""
    n, rows, channels = tokens.shape
    out = tokens.new_empty(tokens.shape)
    if not out.numel():
        return out
    chosen = tuned("group_norm", tokens.device, tokens.dtype, rows=rows, channels=channels)
    width, each = channels // groups, 1 if added is None else n // added.shape[0]
    padded, held = triton.next_power_of_2(width), triton.next_power_of_2(rows)
    affine = weight.contiguous(), weight if bias is None else bias.contiguous(), weight if added is None else added
    added_row = 0 if added is None else added.stride(0)
    given = {"BIAS": bias is not None, "ADD": added is not None}
    if one_launch(rows, channels, groups) and not chosen:
        _whole[(n * groups,)](
            tokens, out, *affine, rows, channels, groups, each, added_row, tokens.stride(0), tokens.stride(1), eps,
            **given, SILU=silu, WIDTH=width, ROWS=held, BLOCK=padded, num_warps=max(1, held * padded // OF_A_WARP),
        )  # fmt: skip
        return out
    _launch_three(tokens, out, affine, groups, each, added_row, eps, given, silu, chosen)
    return out


def _launch_three(tokens, out, affine, groups, each, added_row, eps, given, silu, chosen) -> None:
    n, rows, channels = tokens.shape
    piece, options = chosen.get("PIECE", PIECE), warps(chosen)
    pieces, block = triton.cdiv(rows, piece), min(chosen.get("BLOCK", BLOCK), triton.next_power_of_2(channels))
    grid, layout = (n * pieces, triton.cdiv(channels, block)), (tokens.stride(0), tokens.stride(1))
    mean, deviation = torch.empty(2, n, pieces, channels, dtype=torch.float32, device=tokens.device).unbind(0)
    scale, shift = torch.empty(2, n, channels, dtype=torch.float32, device=tokens.device).unbind(0)
    shape = rows, channels, pieces
    _statistics[grid](tokens, mean, deviation, *shape, *layout, PIECE=piece, BLOCK=block, **options)
    width, twice = channels // groups, 1 + (pieces > MANY_PIECES)
    padded = triton.next_power_of_2(width)
    together = min(max(1, twice * ENTRIES // padded), triton.next_power_of_2(pieces))
    _combine[(n, groups)](
        mean, deviation, *affine, scale, shift, *shape, width, each, added_row, eps,
        **given, LOOPS=loops(pieces, together), PIECE=piece, TOGETHER=together, WIDTH=padded, num_warps=4 * twice,
    )  # fmt: skip
    _apply[grid](tokens, out, scale, shift, *shape, *layout, SILU=silu, PIECE=piece, BLOCK=block, **options)
