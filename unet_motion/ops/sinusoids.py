"""Sines and cosines of positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal_table(length: int, channels: int, device: torch.device | str | None = None) -> Tensor:
    """Position table, float32 (1, length, channels): sine on even and cosine on odd channels.

    Computed in float64, whatever the default dtype (Vaswani et al., 2017).
    """
    if device is not None and torch.device(device).type == "meta":
        return torch.empty(1, length, channels, device=device)
    position = torch.arange(length, dtype=torch.float64, device=device)[:, None]
    rate = torch.exp(torch.arange(0, channels, 2, dtype=torch.float64, device=device) * (-math.log(10000.0) / channels))
    table = torch.empty(length, channels, dtype=torch.float64, device=device)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table.float()[None]
