"""Definitions that motion modules were published with, restated: their group norms, and AnimateLCM-I2V's encoder."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class RestatedNorm(nn.Module):
    """The definition of a group norm over one frame or all frames, for 4-D and 5-D inputs of diffusers' layers."""

    def __init__(self, norm, scope, frames):
        super().__init__()
        self.norm, self.scope, self.frames = norm, scope, frames

    def forward(self, x):
        video = x if x.ndim == 5 else x.unflatten(0, (-1, self.frames)).transpose(1, 2)
        groups = video.unflatten(1, (self.norm.num_groups, -1))
        axes = (2, 4, 5) if self.scope == "frame" else (2, 3, 4, 5)
        mean = groups.mean(axes, keepdim=True)
        spread = ((groups - mean) ** 2).mean(axes, keepdim=True)
        y = ((groups - mean) / (spread + self.norm.eps).sqrt()).flatten(1, 2)
        weight, bias = (p.to(x.dtype).view(1, -1, 1, 1, 1) for p in (self.norm.weight, self.norm.bias))
        y = y * weight + bias
        return y if x.ndim == 5 else y.transpose(1, 2).flatten(0, 1)


def with_norms(theirs, resnet, motion, frames):
    """diffusers' model with the norms of the original."""
    for name, module in list(theirs.named_modules()):
        for child, norm in list(module.named_children()):
            if not isinstance(norm, nn.GroupNorm) or ".attentions." in f".{name}.":
                continue
            scope = motion if ".motion_modules." in f"{name}." else resnet
            setattr(module, child, RestatedNorm(norm, scope, frames))
    return theirs.eval()


def encoder_shapes(widths):
    """Names and shapes of AnimateLCM-I2V's image encoder: two blocks per resolution, 1x1 where channels change."""
    shapes = {"conv_in.weight": (widths[0], 4, 3, 3), "conv_in.bias": (widths[0],)}
    for level, width in enumerate(widths):
        for j in range(2):
            before = widths[level - 1] if level and j == 0 else width
            body = f"body.{2 * level + j}"
            if before != width:
                shapes |= {f"{body}.in_conv.weight": (width, before, 1, 1), f"{body}.in_conv.bias": (width,)}
            shapes |= {f"{body}.block1.weight": (width, width, 3, 3), f"{body}.block1.bias": (width,)}
            shapes |= {f"{body}.block2.weight": (width, width, 1, 1), f"{body}.block2.bias": (width,)}
    return {f"img_encoder.{name}": torch.Size(shape) for name, shape in shapes.items()}


def encoder_state(widths, seed=4):
    """Random weights of an image encoder, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in encoder_shapes(widths).items():
        noise = torch.randn(shape, generator=generator)
        state[name] = noise * (0.2 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)
    return state


def encoder_features(state, latents, scale):
    """The published encoder in float64: latents (b, 4, f, h, w) -> a map (b*f, c, h, w) for every resolution."""

    def conv(name, x):
        weight, bias = (state[f"img_encoder.{name}.{leaf}"].double() for leaf in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    b, _, f, h, w = latents.shape
    x = conv("conv_in", latents.double().transpose(1, 2).flatten(0, 1))
    width = x.shape[1]
    table = torch.zeros(f, width, dtype=torch.float64)
    for position in range(f):
        for i in range(0, width, 2):
            angle = position * math.exp(i * (-math.log(10000.0) / width))
            table[position, i], table[position, i + 1] = math.sin(angle), math.cos(angle)
    x = x + scale * table.repeat(b, 1)[:, :, None, None]
    maps = []
    for i in range(sum(".block1.weight" in name for name in state)):
        if i and i % 2 == 0:
            x = F.avg_pool2d(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate"), 2)
        if f"img_encoder.body.{i}.in_conv.weight" in state:
            x = conv(f"body.{i}.in_conv", x)
        x = x + conv(f"body.{i}.block2", conv(f"body.{i}.block1", x).relu())
        if i % 2:
            maps.append(x)
    return maps


def add_features(theirs, maps):
    """Make diffusers' model add the maps before the second motion module of each block of the way down."""
    for block, features in zip(theirs.down_blocks, maps, strict=True):
        block.motion_modules[1].register_forward_pre_hook(
            lambda module, args, features=features: (args[0] + features, *args[1:])
        )
    return theirs
