"""Group norm, and SiLU behind it, on channels-last memory (Wu and He, 2018, https://arxiv.org/abs/1803.08494)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import kernel

_fits = kernel("group_norm", fits=lambda x, *_: None if x.is_contiguous() else "its tokens are not contiguous")


def group_norm(tokens: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = False) -> Tensor:
    """Norm of tokens (N, M, C) over M and the channels of each group, statistics in float32, then SiLU if asked for.

    M is the pixels of a frame, or those of all frames of a clip.
    """
    if _fits.runs(tokens, weight, bias):
        return _triton_group_norm(tokens, weight, bias, groups, eps, silu)
    return group_norm_eager(tokens, weight, bias, groups, eps, silu)


def group_norm_eager(
    tokens: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = False
) -> Tensor:
    """The plain twin."""
    out = F.group_norm(tokens.transpose(1, 2), groups, weight, bias, eps).transpose(1, 2)
    return F.silu(out) if silu else out


@torch.library.custom_op("unet_motion::group_norm", mutates_args=())
def _triton_group_norm(tokens: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    from .triton.group_norm import launch

    return launch(tokens, weight, bias, groups, eps, silu)


@_triton_group_norm.register_fake
def _(tokens: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    return torch.empty_like(tokens)
