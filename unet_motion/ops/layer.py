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


CARDS = ("cuda",)
"""Types of device on which launches and passes over memory count, so that layers are computed together."""


def on_card(device: torch.device) -> bool:
    """Whether a device is one of CARDS."""
    return device.type in CARDS


def in_autocast(device: torch.device) -> bool:
    """Whether torch chooses dtypes by itself on a device now."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


WEIGHTS: tuple[type[Tensor], ...] = (nn.Parameter,)
"""Classes of weights that are read as they lie; whoever counts without memory adds the class that has none."""


def is_own(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer is torch's ``kind``, and neither a host nor code that was put there computes it.

    Exactly that: a subclass, such as one of quantised weights, may compute otherwise, and so may a weight of another
    class than torch's.
    """
    if type(layer) is not kind or is_patched(layer) or is_hosted(layer):
        return False
    weight = layer._parameters.get("weight")
    return weight is not None and type(weight) in WEIGHTS and weight.is_floating_point()


def is_patched(layer: nn.Module) -> bool:
    """Whether somebody gave this one layer another forward, as extensions for seamless pictures do to convolutions."""
    return "forward" in layer.__dict__ or "_conv_forward" in layer.__dict__


def may_be_computed(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``kind``'s formula with `weights_of` the layer gives what calling it gives, and nobody would miss a call.

    So it is for torch's own class, and for a layer that a host gave to the factory; not for a layer of another class
    that was put in its place, and not where a hook or a forward of the layer's own would be passed by.
    """
    if is_patched(layer) or is_hooked(layer):
        return False
    return is_hosted(layer) or is_own(layer, kind)


def may_be_read(layer: nn.Module, kind: type[nn.Module], x: Tensor) -> bool:
    """Whether a card may read a layer's weights for x past the layer itself: the values are those of calling it.

    Not for gradients, in compiled code and in autocast, and not where somebody waits for the layer to be called.
    """
    if not on_card(x.device) or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if is_hooked(layer) or not is_own(layer, kind) or in_autocast(x.device):
        return False
    weight = cast(Weighted, layer).weight
    return weight.dtype == x.dtype and weight.device == x.device


def is_watched(*layers: nn.Module) -> bool:
    """Whether a forward hook waits for one of the layers to be called, such as a LoRA's."""
    return any(layer._forward_hooks for layer in layers)


def is_hooked(layer: nn.Module) -> bool:
    """Whether somebody's hook, forward or backward, waits for the layer to be called."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
