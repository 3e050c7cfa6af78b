"""Group norm, and SiLU behind it, on channels-last memory (Wu and He, 2018, https://arxiv.org/abs/1803.08494)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import add_into, has_layout, may_be_computed, overwritable, weights_of
from ..layout import from_tokens, to_tokens
from ..pairs import Make, Pair, size_of
from ..proof import wanted
from . import cpu as narrow_groups
from .triton_op import GROUP_NORM, group_norm_kernel


def group_norm(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool = False,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Norm over M and the channels of each group, statistics in float32, then SiLU if asked for.

    Args:
        tokens: (N, M, C), float16, bfloat16 or float32, any strides of N and M. M is the pixels of a frame, or those
            of all frames of a clip.
        weight, bias: (C,).
        groups: a divisor of C.
        added: (R, C), R a divisor of N: row i is added to the i-th N/R tokens before the norm.

    Returns:
        (N, M, C) in the tokens' dtype.
    """
    if wanted(GROUP_NORM, tokens) and GROUP_NORM.takes(tokens, weight, bias, added):
        return group_norm_kernel(tokens, weight, bias, groups, eps, silu, added)
    return group_norm_eager(tokens, weight, bias, groups, eps, silu, added)


def group_norm_eager(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool = False,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The plain twin."""
    if added is not None:
        tokens = (tokens.unflatten(0, (added.shape[0], -1)) + added[:, None, None]).flatten(0, 1)
    out = F.group_norm(tokens.transpose(1, 2), groups, weight, bias, eps).transpose(1, 2)
    return F.silu(out) if silu else out


def scoped_group_norm(
    norm: nn.GroupNorm, x: Tensor, frames: int, scope: str, act=None, added: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:  # fmt: skip
    """Group norm of x (B*F, C, H, W) with statistics per frame or over all frames of a clip, and an activation.

    A vector (B, C) per clip or (B*F, C) per frame is added to x before, in place where x belongs to the caller
    (``inplace``).
    """
    clips = x.shape[0] if scope == "frame" else x.shape[0] // frames
    fused = wanted(GROUP_NORM, x) and may_be_computed(norm, nn.GroupNorm)
    if added is not None and not (fused and clips % added.shape[0] == 0):
        x, added = add_per_row(x, added, inplace), None
    if fused:
        n, c, h, w = x.shape
        out = group_norm(_of_clips(x, clips), *weights_of(norm, x), norm.num_groups, norm.eps, act is F.silu, added)
        out = from_tokens(out.reshape(n, h * w, c), h, w)
        return out if act in (None, F.silu) else act(out)
    out = _plain_group_norm(norm, x, frames, scope)
    if act is F.silu:
        return F.silu(out, inplace=overwritable(norm) and has_layout(out))
    return out if act is None else act(out)


def _plain_group_norm(norm: nn.GroupNorm, x: Tensor, frames: int, scope: str) -> Tensor:
    clips = x.shape[0] if scope == "frame" else x.shape[0] // frames
    if narrow_groups.serves(norm, x, x.shape[-2] * x.shape[-1] * (1 if scope == "frame" else frames)):
        tokens = _of_clips(x, clips)
        weight, bias = weights_of(norm, x)
        assert bias is not None  # `serves` says so
        out = narrow_groups.group_norm(tokens, weight, bias, norm.num_groups, norm.eps)
        return from_tokens(out.reshape(x.shape[0], x.shape[2] * x.shape[3], x.shape[1]), *x.shape[-2:])
    if _would_crash(norm, x):
        x = x.detach().requires_grad_()
    if scope == "frame" or frames == 1:
        # Of one frame, traced views and real ones have different strides; the kernel reads the layout off them.
        return norm(from_tokens(to_tokens(x), *x.shape[-2:]) if torch.compiler.is_compiling() else x)
    n, c, h, w = x.shape
    clip = x.permute(0, 2, 3, 1).reshape(n // frames, frames * h, w, c).permute(0, 3, 1, 2)
    return norm(clip).permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)


def _of_clips(x: Tensor, clips: int) -> Tensor:
    """x (N, C, H, W) as (clips, N / clips * H * W, C), of no pictures too."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(clips, (n // clips if clips else 1) * h * w, c)


def _would_crash(norm: nn.GroupNorm, x: Tensor) -> bool:
    """Whether torch's backward pass would read a null pointer.

    On the CPU that of group norm on channels-last memory may, where only the weights want a gradient: so it is in the
    first motion module behind frozen image layers.
    """
    weight = getattr(norm, "weight", None)
    wanted = weight is not None and weight.requires_grad and not x.requires_grad and torch.is_grad_enabled()
    return wanted and x.device.type == "cpu" and not torch.compiler.is_compiling()


def add_per_row(x: Tensor, vector: Tensor, inplace: bool) -> Tensor:
    """x (B*F, C, H, W) plus a vector (B, C) per clip or (B*F, C) per frame, broadcast and never repeated."""
    clips = x.unflatten(0, (vector.shape[0], -1))
    return add_into(clips, vector[:, None, :, None, None], inplace).flatten(0, 1)


@GROUP_NORM.pair("group norm over a clip", row=False, silu=False, clip=True)
@GROUP_NORM.pair("group norm behind an embedding of each frame", row=False, added="frame")
@GROUP_NORM.pair("group norm and SiLU behind the time embedding", added="clip")
@GROUP_NORM.pair("group norm and SiLU")
def _pair(
    make: Make, clips: int, frames: int, side: int, channels: int, silu: bool = True, added: str = "",
    clip: bool = False,
) -> Pair:  # fmt: skip
    sizes = (clips, frames * side * side) if clip else (clips * frames, side * side)
    tokens, weight, bias = make(*sizes, channels), make(channels), make(channels)
    rows = make(clips * (frames if added == "frame" else 1), channels) if added else None
    given = (tokens, weight, bias, 32, 1e-5, silu, rows)
    return Pair(
        lambda: group_norm_kernel(*given), lambda: group_norm_eager(*given), (tokens, weight, bias, rows),
        3 * size_of(tokens),
    )  # fmt: skip
