"""Attention over the frames of each pixel, straight from token layout."""

from __future__ import annotations

import torch
from torch import Tensor, library

from ..dispatch import kernel
from ..proof import wanted
from .layout import empty_result

MOST_FRAMES = 64
MOST_WIDTH = 256


def _constraint(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> str | None:
    if query.shape != key.shape or key.shape != value.shape:
        return "query and key differ in shape"
    if query.dtype != key.dtype or key.dtype != value.dtype:
        return "query and key differ in dtype"
    frames, width = query.shape[-2:]
    if frames > MOST_FRAMES:
        return f"{frames} frames are more than {MOST_FRAMES}"
    if width > MOST_WIDTH:
        return f"heads of {width} channels are wider than {MOST_WIDTH}"
    scores = (*query.shape[:-1], frames)
    if mask is not None and any(m not in (1, s) for m, s in zip(mask.shape, scores, strict=True)):
        return "the mask does not broadcast to the scores"
    return None


TEMPORAL_ATTENTION = kernel("temporal_attention", by_processor=True, fits=_constraint)


def temporal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """softmax(scale * q k^T + mask) v of each head and sequence.

    Args:
        query, key, value: (N, heads, F, dim), or with clips (B, N, heads, F, dim), views of any strides; float16,
            bfloat16 or float32.
        mask: added to the scores; (N or 1, heads or 1, F or 1, F or 1), with clips (B or 1, ...), of any float dtype
            and strides.

    Returns:
        The query's shape and dtype, in the memory order of tokens, ((B,) F, N, heads, dim).
    """
    if wanted(TEMPORAL_ATTENTION, query) and TEMPORAL_ATTENTION.takes(query, key, value, mask):
        return temporal_attention_kernel(query, key, value, scale, mask)
    return temporal_attention_eager(query, key, value, scale, mask)


def temporal_attention_eager(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """The plain twin: scores and softmax in float32 or wider."""
    compute = torch.promote_types(query.dtype, torch.float32)
    scores = torch.matmul(query.to(compute), key.to(compute).transpose(-1, -2)) * scale
    if mask is not None:
        scores = scores + mask.to(compute)
    return torch.matmul(scores.softmax(dim=-1), value.to(compute)).to(query.dtype)


@library.custom_op("unet_motion::temporal_attention", mutates_args=())
def temporal_attention_kernel(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    from .triton import launch

    return launch(query, key, value, scale, mask)


@temporal_attention_kernel.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    return empty_result(query)
