"""A layer's weights, whoever owns them, and where a tensor may be overwritten.

What is overwritten saves half of the passes over memory around norms and residual sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn


def overwritable(*layers: nn.Module) -> bool:
    """Whether nobody else can hold what these layers took or gave: no gradient needs it and no hook has seen it."""
    return not torch.is_grad_enabled() and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def add_into(tensor: Tensor, other: Tensor, inplace: bool) -> Tensor:
    """tensor + other, written into ``tensor`` where that belongs to the caller (``inplace``)."""
    return tensor.add_(other) if inplace and tensor.dtype == other.dtype and has_layout(tensor) else tensor + other


def has_layout(pictures: Tensor) -> bool:
    """Whether the strides of pictures (..., H, W) say in which order they lie.

    Those of a single pixel do not: a new tensor has others than an overwritten one, and torch's norms round otherwise.
    """
    return pictures.dim() < 2 or pictures.shape[-2] * pictures.shape[-1] > 1


Weights = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor | None]]


class Weighted(Protocol):
    """A layer with a weight, and with a bias or None: torch's, or a host's."""

    weight: Tensor
    bias: Tensor | None


def module_weights(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of a layer as they are; a host's own function may cast, move or patch them for ``x``."""
    layer = cast(Weighted, module)
    return layer.weight, layer.bias


def weights_of(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of a layer for its input ``x``, read in the way of the layer's owner."""
    return getattr(layer, "read_weights", module_weights)(layer, x)


def is_hosted(layer: nn.Module) -> bool:
    """Whether a host reads the layer's weights in a way of its own (``read_weights``, put there by the factory)."""
    return getattr(layer, "read_weights", module_weights) is not module_weights


def is_watched(*layers: nn.Module) -> bool:
    """Whether a forward hook waits for one of the layers to be called, such as a LoRA's."""
    return any(layer._forward_hooks for layer in layers)


def is_hooked(layer: nn.Module) -> bool:
    """Whether somebody's hook, forward or backward, waits for the layer to be called."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
