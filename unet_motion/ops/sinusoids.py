"""Sines and cosines of positions and of timesteps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def timestep_sinusoid(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding, float32 (R, width): cosines first, longest period 10000 (Ho et al., 2020)."""
    half = width // 2
    # In this order of operations the values are those of diffusers and ComfyUI to the last bit.
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * exponent.exp()[None]
    out = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(out, (0, 1)) if width % 2 else out


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
