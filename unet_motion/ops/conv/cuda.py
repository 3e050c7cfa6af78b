"""Convolutions on a graphics card without the passes over memory that torch's call makes around cuDNN's.

torch adds the bias in a pass of its own; in the products of linear layers it costs nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import may_be_read


def is_product(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``conv`` of x (N, C, H, W) may be computed as a linear layer."""
    whole = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    # In float32 torch rounds the factors of convolutions to TF32, and not those of products, which take longer then.
    return whole and conv.groups == 1 and x.dtype != torch.float32 and may_be_read(conv, nn.Conv2d, x)


def as_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 ``conv`` of x (N, C, H, W) as one product over all pixels; the result has channels last."""
    n, c, height, width = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(-1, c)
    out = F.linear(tokens, conv.weight.flatten(1), conv.bias)
    return out.view(n, height, width, -1).permute(0, 3, 1, 2)


def leaves_bias(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``conv`` of x (N, C, H, W) is faster without its bias, which somebody else adds."""
    plain = conv.bias is not None and conv.padding_mode == "zeros" and conv.kernel_size != (1, 1)
    return plain and may_be_read(conv, nn.Conv2d, x)


def without_bias(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
