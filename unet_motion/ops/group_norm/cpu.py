"""Group norm of groups of few channels in channels-last memory, on a CPU.

torch's kernel computes with vectors of eight channels of a group: with groups of 2 to 12 channels, eight apart, it
takes two to ten times as long as the sums below, and they round less. bfloat16 is computed in float32 and rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layer import is_hosted, may_be_computed

VECTOR, NARROW = 8, 12
"""Channels that torch's kernel computes at once, and of a group up to which the sums below are faster than it, unless
vectors fill them."""

BFLOAT16_VECTOR, BFLOAT16_NARROW = 16, 30
"""The same in bfloat16."""

MANY_PIXELS = 1024
"""From here on torch's forward pass adds up whole rows of channels instead, and is faster; its gradient in float32 is
not."""


def serves(norm: nn.GroupNorm, x: Tensor, pixels: int) -> bool:
    """Whether `group_norm` computes this layer of x (N, C, H, W) faster than torch; statistics are over ``pixels``."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or not x.numel():
        return False
    if torch.compiler.is_compiling() or not may_be_computed(norm, nn.GroupNorm):
        return False
    if not norm.affine or torch.is_autocast_enabled("cpu"):
        return False
    if is_hosted(norm) and torch.is_grad_enabled():
        return False  # a host's layer knows best how gradients pass
    width = x.shape[1] // norm.num_groups
    return _is_narrow(width, x.dtype, pixels) and x.is_contiguous(memory_format=torch.channels_last)


def _is_narrow(width: int, dtype: torch.dtype, pixels: int) -> bool:
    if dtype == torch.float32:
        return width <= NARROW and width % VECTOR != 0
    return width <= BFLOAT16_NARROW and width % BFLOAT16_VECTOR != 0 and pixels < MANY_PIXELS


def group_norm(tokens: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Group norm of tokens (N, P, C) over P and the channels of a group; weight and bias (C,)."""
    if tokens.dtype == torch.float32:
        return _NarrowGroupNorm.apply(tokens, weight, bias, groups, eps)
    wide, weight, bias = tokens.float(), weight.float(), bias.float()
    if torch.is_grad_enabled():
        return _NarrowGroupNorm.apply(wide, weight, bias, groups, eps).to(tokens.dtype)
    return _normalise(wide, weight, bias, groups, eps, rounded=True)[0].to(tokens.dtype)


class _NarrowGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.groups, ctx.eps = groups, eps
        if x.shape[1] < MANY_PIXELS:
            out, mean, factor = _normalise(x, weight, bias, groups, eps)
        else:
            n, p, c = x.shape
            planes = x.transpose(1, 2)[:, :, None]
            out, mean, factor = torch.native_group_norm(planes, weight, bias, n, c, p, groups, eps)
            out = out[:, :, 0].transpose(1, 2)
            mean, factor = (_per_channel(t[..., None], c) for t in (mean, factor))
        ctx.save_for_backward(x, mean, factor, weight)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, mean, factor, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            mean, factor = _statistics(x, ctx.groups, ctx.eps)
        centred = x - mean
        sums = gradient.sum(1, keepdim=True)
        products = (gradient * centred).sum(1, keepdim=True) * factor
        of_weights = products.sum((0, 1)), sums.sum((0, 1))
        if not ctx.needs_input_grad[0]:
            return None, *of_weights, None, None
        # How the loss follows the mean and the spread of a group, per entry.
        along = [_group_means(s * weight, ctx.groups) / x.shape[1] for s in (sums, products)]
        out = torch.addcmul(-along[0] * factor, gradient, factor * weight)
        out.addcmul_(centred, -along[1] * factor.square())
        return out, *of_weights, None, None


def _normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, rounded: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of x (N, P, C), and the mean and factor of `_statistics`; written over x where it is rounded after."""
    average = _means_by_product if rounded else _means
    mean = _group_means(average(x), groups)
    centred = x.sub_(mean) if rounded else x - mean
    factor = (_group_means(average(centred.square()), groups) + eps).rsqrt()
    return torch.addcmul(bias, centred, factor * weight, out=centred), mean, factor


def _statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each group, for each of its channels: x (N, P, C) -> (N, 1, C) twice."""
    mean = _group_means(_means(x), groups)
    return mean, (_group_means(_means((x - mean).square()), groups) + eps).rsqrt()


def _means(x: Tensor) -> Tensor:
    """x (N, P, C) averaged over P, as (N, 1, C)."""
    return x.mean(1, keepdim=True)


def _means_by_product(x: Tensor) -> Tensor:
    """The same, faster, and in the last bit another number for another batch."""
    return torch.bmm(x.new_ones(x.shape[0], 1, x.shape[1]), x) / x.shape[1]


def _group_means(x: Tensor, groups: int) -> Tensor:
    """Means (N, 1, C) of the channels of each group, of x (N, 1, C)."""
    return _per_channel(x.view(x.shape[0], groups, -1).mean(-1, keepdim=True), x.shape[-1])


def _per_channel(x: Tensor, channels: int) -> Tensor:
    """A value for each group (N, G, 1) as one for each channel (N, 1, C)."""
    return x.expand(-1, -1, channels // x.shape[1]).reshape(x.shape[0], 1, channels)
