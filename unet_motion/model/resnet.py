"""Resnets, the time embedding and the resampling layers of the UNet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..forward.call import Call
from ..ops.conv import add_skip, convolve, convolve_leaving_bias, convolve_upsampled
from ..ops.group_norm import scoped_group_norm
from ..ops.layer import overwritable
from .layer_factory import LayerFactory

_ACTIVATIONS = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}


def activation(name: str):
    """The activation function of a config's ``act_fn``."""
    return _ACTIVATIONS[name]


class TimestepEmbedding(nn.Module):
    """Two linear layers with an activation between them; ``cond_proj`` adds a condition to the input."""

    def __init__(
        self, make: LayerFactory, in_channels: int, out_channels: int, act_fn: str, cond_dim: int | None = None
    ):
        super().__init__()
        self.linear_1 = make.linear(in_channels, out_channels)
        self.cond_proj = make.linear(cond_dim, in_channels, bias=False) if cond_dim is not None else None
        self.act = activation(act_fn)
        self.linear_2 = make.linear(out_channels, out_channels)

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        """sample (R, in_channels), condition (R, cond_dim) -> (R, out_channels)."""
        if condition is not None and self.cond_proj is not None:
            sample = sample + self.cond_proj(condition)
        return self.linear_2(self.act(self.linear_1(sample)))


class ResnetBlock(nn.Module):
    """Norm, activation, convolution, twice, with the time embedding between and a skip."""

    def __init__(
        self, make: LayerFactory, in_channels: int, out_channels: int, temb_channels: int, groups: int, eps: float,
        act_fn: str, output_scale_factor: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        self.norm1 = make.group_norm(groups, in_channels, eps)
        self.conv1 = make.conv(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = make.linear(temb_channels, out_channels)
        self.norm2 = make.group_norm(groups, out_channels, eps)
        self.conv2 = make.conv(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = make.conv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.act = activation(act_fn)
        self.output_scale_factor = output_scale_factor

    def forward(self, x: Tensor, call: Call) -> Tensor:
        frames, scope = call.frames, call.settings.resnet_norm_scope
        hidden = scoped_group_norm(self.norm1, x, frames, scope, self.act)
        hidden, bias = convolve_leaving_bias(self.conv1, hidden)
        added = self.time_emb_proj(call.temb) if call.time_added is None else call.time_added[self]
        added = added if bias is None else added + bias
        inplace = overwritable(self.conv1)
        hidden = scoped_group_norm(self.norm2, hidden, frames, scope, self.act, added, inplace)
        hidden, bias = convolve_leaving_bias(self.conv2, hidden)
        skip = x if self.conv_shortcut is None else convolve(self.conv_shortcut, x)
        out = add_skip(hidden, bias, skip, overwritable(self.conv2))
        return out if self.output_scale_factor == 1 else out / self.output_scale_factor


class Downsample(nn.Module):
    """Convolution with stride 2; ``padding`` 0 pads right and bottom by hand."""

    def __init__(self, make: LayerFactory, channels: int, padding: int):
        super().__init__()
        self.conv = make.conv(channels, channels, 3, stride=2, padding=padding)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv, F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, to twice the size or to that of the next skip, and a convolution."""

    def __init__(self, make: LayerFactory, channels: int):
        super().__init__()
        self.conv = make.conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        return convolve_upsampled(self.conv, x, size)
