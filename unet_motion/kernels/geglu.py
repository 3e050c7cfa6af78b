"""value * gelu(gate) of a doubled projection (Shazeer, 2020, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import kernel

_fits = kernel("geglu", fits=lambda x: None if x.stride(-1) == 1 else "its last axis is strided")


def geglu(x: Tensor) -> Tensor:
    """x (..., 2 * H) -> (..., H); the first half times the exact gelu of the second."""
    return _triton_geglu(x) if _fits.runs(x) else geglu_eager(x)


def geglu_eager(x: Tensor) -> Tensor:
    """The plain twin."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


@torch.library.custom_op("unet_motion::geglu", mutates_args=())
def _triton_geglu(x: Tensor) -> Tensor:
    from .triton.geglu import launch

    return launch(x)


@_triton_geglu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
