"""Group norm in two passes over channels-last memory: means and deviations of pieces, then scale, shift and SiLU.

Whole rows of channels are read, because a group's few channels alone would waste most of each memory transaction.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIECE = 64
"""Rows of a piece."""


@triton.jit
def _statistics(x, mean, deviation, rows, channels, pieces, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    row = piece * PIECE + tl.arange(0, PIECE)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    offset = (n * rows + row)[:, None] * channels + column[None, :]
    values = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(rows - piece * PIECE, PIECE).to(tl.float32)
    average = tl.sum(values, axis=0) / count
    difference = tl.where(inside, values - average[None, :], 0.0)
    place = (n * pieces + piece) * channels + column
    tl.store(mean + place, average, mask=column < channels)
    tl.store(deviation + place, tl.sum(difference * difference, axis=0), mask=column < channels)


@triton.jit
def _apply(x, out, scale, shift, rows, channels, SILU: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    offset = (n * rows + row)[:, None] * channels + column[None, :]
    a = tl.load(scale + n * channels + column, mask=column < channels, other=0.0)
    b = tl.load(shift + n * channels + column, mask=column < channels, other=0.0)
    y = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32) * a[None, :] + b[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + offset, y.to(out.dtype.element_ty), mask=inside)


def launch(tokens: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    """tokens (N, M, C), contiguous."""
    n, rows, channels = tokens.shape
    out = torch.empty_like(tokens)
    if not out.numel():
        return out
    pieces, block = triton.cdiv(rows, PIECE), min(64, triton.next_power_of_2(channels))
    grid = (n, pieces, triton.cdiv(channels, block))
    mean, deviation = torch.empty(2, n, pieces, channels, dtype=torch.float32, device=tokens.device).unbind(0)
    _statistics[grid](tokens, mean, deviation, rows, channels, pieces, PIECE=PIECE, BLOCK=block)
    scale, shift = _scale_and_shift(mean, deviation, rows, weight.float(), bias.float(), groups, eps)
    _apply[grid](tokens, out, scale, shift, rows, channels, SILU=silu, PIECE=PIECE, BLOCK=block)
    return out


def _scale_and_shift(
    mean: Tensor, deviation: Tensor, rows: int, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Per clip or frame and channel, (N, C) each, from the pieces' means and squared deviations (Chan et al., 1979)."""
    n, pieces, channels = mean.shape
    count = torch.full((pieces, 1, 1), PIECE, dtype=torch.float32, device=mean.device)
    count[-1] = rows - (pieces - 1) * PIECE
    mean = mean.view(n, pieces, groups, -1)
    size = rows * channels // groups
    whole = (mean * count).sum(dim=(1, 3), keepdim=True) / size
    variance = deviation.view_as(mean).sum(dim=(1, 3)) + ((mean - whole).square() * count).sum(dim=(1, 3))
    rate = (variance / size + eps).rsqrt()[:, :, None]
    scale = weight.view(groups, -1) * rate
    shift = bias.view(groups, -1) - whole[:, 0] * scale
    return scale.flatten(1).contiguous(), shift.flatten(1).contiguous()
