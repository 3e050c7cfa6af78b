"""Linear layers that read the same input as one product, on a graphics card: their weights lie behind each other.

The layers keep their parameters, but as parts of one tensor: whoever edits a layer edits that. Where a layer's weights
were replaced or moved since, or it runs code of its own, the layers compute for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import in_autocast, is_hooked, is_own, on_card

_NAMES = ("weight", "bias")


def pack_for(device: torch.device, layers: Sequence[nn.Module]) -> None:
    """:func:`pack` where that saves time, on a graphics card."""
    if on_card(device):
        pack(layers)


@torch.no_grad()
def pack(layers: Sequence[nn.Module]) -> None:
    """Put the layers' weights into one tensor, where they are of one kind and it is not done already."""
    if is_packed(layers) or not all(is_own(layer, nn.Linear) for layer in layers):
        return
    for name in _NAMES:
        held = [getattr(layer, name) for layer in layers]
        if _kinds(held) != 1 or held[0] is None or any(t.is_inference() for t in held):
            continue
        parts = torch.cat([t.data for t in held]).split([len(t) for t in held])
        for parameter, part in zip(held, parts, strict=True):
            parameter.data = part


def is_packed(layers: Sequence[nn.Module]) -> bool:
    """Whether :func:`product` finds the layers' weights in one tensor now."""
    return _packed(layers) is not None


def product(layers: Sequence[nn.Module], x: Tensor) -> Tensor | None:
    """``layer(x)`` of all layers joined, x (..., in) -> (..., sum of out); None where each layer has to compute."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(map(is_hooked, layers)):
        return None
    whole = None if in_autocast(x.device) else _packed(layers)
    return None if whole is None else F.linear(x, *whole)


def _packed(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None] | None:
    """The weights and biases of all layers as one tensor each, or None."""
    if len(layers) < 2 or not all(is_own(layer, nn.Linear) for layer in layers):
        return None
    weights, biases = ([getattr(layer, name) for layer in layers] for name in _NAMES)
    weight = joined(weights)
    if weight is None or all(bias is None for bias in biases):
        return None if weight is None else (weight, None)
    bias = joined(biases)
    return None if bias is None else (weight, bias)


def _kinds(held: Sequence[Tensor | None]) -> int:
    return len({None if t is None else (type(t), t.device, t.dtype, t.shape[1:]) for t in held})


def joined(held: Sequence[Tensor | None]) -> Tensor | None:
    """Tensors as one view of the memory in which they lie behind each other, or None where they do not."""
    first = held[0]
    if first is None or _kinds(held) != 1:
        return None
    memory, place = _memory(first), first.data_ptr()
    for tensor in cast(Sequence[Tensor], held):
        if tensor.data_ptr() != place or _memory(tensor) != memory or not tensor.is_contiguous():
            return None
        place += tensor.numel() * tensor.element_size()
    rows = sum(len(tensor) for tensor in cast(Sequence[Tensor], held))
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())


def _memory(tensor: Tensor) -> int:
    """Where the piece of memory begins that a tensor lies in."""
    return tensor.data_ptr() - int(tensor.storage_offset()) * tensor.element_size()


class TimeProjections:
    """One product in place of a small one in each resnet, whose launch takes longer on a GPU than its arithmetic.

    Args:
        resnets: have a ``time_emb_proj`` each.
    """

    def __init__(self, resnets: Sequence[nn.Module]) -> None:
        self._resnets = tuple(resnets)

    @property
    def layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, resnet.time_emb_proj) for resnet in self._resnets]

    @property
    def packed(self) -> bool:
        """Whether the layers' weights lie in one tensor."""
        return is_packed(self.layers)

    def pack(self) -> None:
        pack(self.layers)

    def __call__(self, temb: Tensor) -> dict[nn.Module, Tensor] | None:
        """The projections of temb (R, T) by resnet, each (R, C) as a view; None where each layer has to compute."""
        layers = self.layers
        joined = product(layers, temb)
        if joined is None:
            return None
        return dict(zip(self._resnets, joined.split([layer.out_features for layer in layers], dim=-1), strict=True))
