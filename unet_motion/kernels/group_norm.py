"""Group norm, and SiLU behind it, on channels-last memory (Wu and He, 2018, https://arxiv.org/abs/1803.08494)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, library

from .dispatch import kernel


def _constraint(tokens: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> str | None:
    if added is not None and (tokens.shape[0] % added.shape[0] or added.shape[1] != tokens.shape[2]):
        return "what is added is not one row of each so many tokens"
    strided = any(t is not None and t.stride(-1) != 1 and t.shape[-1] != 1 for t in (tokens, added))
    return "its channels are strided" if strided else None


_fits = kernel("group_norm", fits=_constraint)


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
    if _fits.runs(tokens, weight, bias, added):
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


@library.custom_op("unet_motion::group_norm", mutates_args=())
def group_norm_kernel(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    from .triton.group_norm import launch

    return launch(tokens, weight, bias, groups, eps, silu, added)


@group_norm_kernel.register_fake
def _(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return tokens.new_empty(tokens.shape)
