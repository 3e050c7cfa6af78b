"""Attention over the frames of each pixel, straight from token layout."""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import kernel

MOST_FRAMES = 64
MOST_WIDTH = 256


def _constraint(query: Tensor, key: Tensor, value: Tensor) -> str | None:
    if query.shape != key.shape or key.shape != value.shape:
        return "query and key differ in shape"
    if query.shape[2] > MOST_FRAMES:
        return f"{query.shape[2]} frames are more than {MOST_FRAMES}"
    if query.shape[3] > MOST_WIDTH:
        return f"heads of {query.shape[3]} channels are wider than {MOST_WIDTH}"
    return None


_fits = kernel("temporal_attention", fits=_constraint)


def temporal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T) v of (N, heads, F, dim) views of any strides; gives (N, heads, F, dim)."""
    if _fits.runs(query, key, value):
        return temporal_attention_kernel(query, key, value, scale)
    return temporal_attention_eager(query, key, value, scale)


def temporal_attention_eager(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The plain twin: scores and softmax in float32 or wider."""
    compute = torch.promote_types(query.dtype, torch.float32)
    scores = torch.matmul(query.to(compute), key.to(compute).transpose(-1, -2)) * scale
    return torch.matmul(scores.softmax(dim=-1), value.to(compute)).to(query.dtype)


def empty_result(query: Tensor) -> Tensor:
    """(N, heads, F, dim) in the memory order of tokens, (F, N, heads, dim)."""
    n, heads, frames, dim = query.shape
    return query.new_empty(frames, n, heads, dim).permute(1, 2, 0, 3)


@torch.library.custom_op("unet_motion::temporal_attention", mutates_args=())
def temporal_attention_kernel(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    from .triton.temporal_attention import launch

    return launch(query, key, value, scale)


@temporal_attention_kernel.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return empty_result(query)
