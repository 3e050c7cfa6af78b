"""Where a tensor may be overwritten: half of the passes over memory around norms and residual sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def overwritable(*layers: nn.Module) -> bool:
    """Whether nobody else can hold what these layers took or gave: no gradient needs it and no hook has seen it."""
    return not torch.is_grad_enabled() and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def add_into(tensor: Tensor, other: Tensor, own: bool) -> Tensor:
    """tensor + other, written into ``tensor`` where it is the caller's ``own``."""
    return tensor.add_(other) if own and tensor.dtype == other.dtype and has_layout(tensor) else tensor + other


def has_layout(pictures: Tensor) -> bool:
    """Whether the strides of pictures (..., H, W) say in which order they lie.

    Those of a single pixel do not: a new tensor has others than an overwritten one, and torch's norms round otherwise.
    """
    return pictures.dim() < 2 or pictures.shape[-2] * pictures.shape[-1] > 1
