"""The time embedding's projections of all resnets as one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import is_hosted


class TimeProjections:
    """One product in place of a small one in each resnet, whose launch takes longer on a GPU than its arithmetic.

    The layers keep their parameters, but as parts of one tensor: whoever edits a layer edits that. Where a layer's
    weights were replaced since, or it runs code of its own, all layers compute for themselves again.

    Args:
        resnets: have a ``time_emb_proj`` each.
    """

    def __init__(self, resnets: Sequence[nn.Module]) -> None:
        self._resnets = tuple(resnets)
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._places: list[tuple[int, int]] = []

    @property
    def packed(self) -> bool:
        """Whether the layers' weights lie in one tensor."""
        return self._weight is not None and all(map(_lies_at, self._layers(), self._places))

    def _layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, resnet.time_emb_proj) for resnet in self._resnets]

    def pack_for(self, device: torch.device) -> None:
        """:meth:`pack` where that saves time, on a GPU; not where a host reads weights in a way of its own."""
        if device.type == "cuda" and not any(map(is_hosted, self._layers())):
            self.pack()

    @torch.no_grad()
    def pack(self) -> None:
        """Put the layers' weights into one tensor, where they are of one kind and it is not done already."""
        layers = self._layers()
        plain = all(type(layer) is nn.Linear and not layer.weight.is_inference() for layer in layers)
        if self.packed or not plain or len({(layer.weight.device, layer.weight.dtype) for layer in layers}) > 1:
            return
        self._weight, self._bias = (torch.cat([getattr(layer, name).data for layer in layers]) for name in _NAMES)
        sizes = [layer.out_features for layer in layers]
        for name, whole in zip(_NAMES, (self._weight, self._bias), strict=True):
            for layer, part in zip(layers, whole.split(sizes), strict=True):
                getattr(layer, name).data = part
        self._places = [(layer.weight.data_ptr(), layer.bias.data_ptr()) for layer in layers]

    def __call__(self, temb: Tensor) -> dict[nn.Module, Tensor] | None:
        """The projections of temb (R, T) by resnet, each (R, C) as a view; None where each layer has to compute."""
        if self._weight is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if not self.packed:
            self._weight = self._bias = None
            return None
        if any(layer._forward_hooks or layer._forward_pre_hooks for layer in self._layers()):
            return None
        parts = F.linear(temb, self._weight, self._bias).split([layer.out_features for layer in self._layers()], dim=-1)
        return dict(zip(self._resnets, parts, strict=True))


_NAMES = ("weight", "bias")


def _lies_at(layer: nn.Module, place: tuple[int, int]) -> bool:
    if type(layer) is not nn.Linear or "forward" in layer.__dict__:
        return False
    return (layer.weight.data_ptr(), layer.bias.data_ptr()) == place
