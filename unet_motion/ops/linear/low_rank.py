"""The product of a LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def low_rank(x: Tensor, down: Tensor, up: Tensor, strength: float | Tensor | None = None) -> Tensor:
    """up @ (strength * (down @ x)), computed in the dtype of x and of the strength, and given in that of x.

    Args:
        x: (..., in).
        down, up: (R, in) and (out, R), of any float dtype and on any device.
        strength: a number or a tensor that broadcasts to (..., R); None is 1.
    """
    low = F.linear(x, down.to(x))
    if strength is not None:
        low = (low * strength).to(x.dtype)
    return F.linear(low, up.to(x))
