"""Group norm, and SiLU behind it, on channels-last memory (Wu and He, 2018, https://arxiv.org/abs/1803.08494)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import kernel


def _constraint(tokens: Tensor, *_) -> str | None:
    return None if tokens.stride(2) == 1 or tokens.shape[2] == 1 else "its channels are strided"


_fits = kernel("group_norm", fits=_constraint)


def group_norm(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool = False
) -> Tensor:
    """Norm over M and the channels of each group, statistics in float32, then SiLU if asked for.

    Args:
        tokens: (N, M, C), float16, bfloat16 or float32, any strides of N and M. M is the pixels of a frame, or those
            of all frames of a clip.
        weight, bias: (C,).
        groups: a divisor of C.

    Returns:
        (N, M, C) in the tokens' dtype.
    """
    if _fits.runs(tokens, weight, bias):
        return group_norm_kernel(tokens, weight, bias, groups, eps, silu)
    return group_norm_eager(tokens, weight, bias, groups, eps, silu)


def group_norm_eager(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool = False
) -> Tensor:
    """The plain twin."""
    out = F.group_norm(tokens.transpose(1, 2), groups, weight, bias, eps).transpose(1, 2)
    return F.silu(out) if silu else out


@torch.library.custom_op("unet_motion::group_norm", mutates_args=())
def group_norm_kernel(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool
) -> Tensor:
    from .triton.group_norm import launch

    return launch(tokens, weight, bias, groups, eps, silu)


@group_norm_kernel.register_fake
def _(tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool) -> Tensor:
    return tokens.new_empty(tokens.shape)
