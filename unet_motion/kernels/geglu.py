"""value * gelu(gate) of a doubled projection (Shazeer, 2020, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, library

from .dispatch import kernel
from .strides import not_rows

_fits = kernel("geglu", fits=not_rows)


def geglu(x: Tensor) -> Tensor:
    """The first half of the channels times the exact gelu of the second, computed in float32.

    Args:
        x: (..., 2 * H), float16, bfloat16 or float32.

    Returns:
        (..., H) in x's dtype.
    """
    return geglu_kernel(x) if _fits.runs(x) else geglu_eager(x)


def geglu_eager(x: Tensor) -> Tensor:
    """The plain twin."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


@library.custom_op("unet_motion::geglu", mutates_args=())
def geglu_kernel(x: Tensor) -> Tensor:
    from .triton.geglu import launch

    return launch(x)


@geglu_kernel.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
