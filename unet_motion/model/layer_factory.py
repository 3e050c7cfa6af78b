"""Builds the layers of a model from an injected namespace of operations."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ..ops.layer import Weights, module_weights

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class LayerFactory:
    """Where layers come from.

    Args:
        operations: namespace with ``Linear``, ``Conv2d``, ``GroupNorm`` and ``LayerNorm`` as in ``torch.nn``.
        weights: (layer, input) -> (weight, bias); the only way in which fused code reads parameters.
        dtype, device: given to every layer.
        silent: new motion modules change nothing; else their last layers start with random values, as in diffusers.
    """

    operations: Any
    weights: Weights
    dtype: torch.dtype | None
    device: torch.device | str | None
    silent: bool

    def __deepcopy__(self, memo) -> LayerFactory:
        # Nothing here changes, and a namespace such as torch.nn cannot be copied: a copied model shares it.
        return self

    def __reduce__(self):
        # A module such as torch.nn cannot be pickled; it is found again by its name.
        operations = self.operations
        found = _Module(operations.__name__) if isinstance(operations, ModuleType) else operations
        return _unpickled, (found, self.weights, self.dtype, self.device, self.silent)

    @property
    def _where(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "device": self.device}

    def _owned(self, layer: Layer) -> Layer:
        """The layer, which knows from now on how its weights are read: see :func:`unet_motion.ops.layer.weights_of`."""
        if self.weights is not module_weights:
            layer.__dict__["read_weights"] = self.weights
        return layer

    def linear(self, in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
        return self._owned(self.operations.Linear(in_features, out_features, bias=bias, **self._where))

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> nn.Conv2d:
        return self._owned(
            self.operations.Conv2d(
                in_channels, out_channels, kernel_size, stride=stride, padding=padding, **self._where
            )
        )

    def group_norm(self, groups: int, channels: int, eps: float) -> nn.GroupNorm:
        return self._owned(self.operations.GroupNorm(groups, channels, eps=eps, affine=True, **self._where))

    def layer_norm(self, width: int) -> nn.LayerNorm:
        return self._owned(self.operations.LayerNorm(width, eps=1e-5, elementwise_affine=True, **self._where))


@dataclass(frozen=True)
class _Module:
    name: str


def _unpickled(operations: Any, *others: Any) -> LayerFactory:
    if isinstance(operations, _Module):
        operations = importlib.import_module(operations.name)
    return LayerFactory(operations, *others)


def make_factory(operations=None, weights=None, dtype=None, device=None, silent: bool = True) -> LayerFactory:
    """A factory with the defaults filled in."""
    valueless = device is not None and torch.device(device).type == "meta"
    operations = operations or (_Valueless if valueless else nn)
    return LayerFactory(operations, weights or module_weights, dtype, device, silent)


def _valueless(layer: type[nn.Module]) -> Callable[..., nn.Module]:
    """Makes a layer for the meta device, where choosing starting values takes longer than all the rest."""
    quiet = type(layer.__name__, (layer,), {"reset_parameters": lambda self: None})

    def make(*args: Any, **kwargs: Any) -> nn.Module:
        made = quiet(*args, **kwargs)
        cast(Any, made).__class__ = layer
        return made

    return make


class _Valueless:
    Linear, Conv2d, GroupNorm, LayerNorm = map(_valueless, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm))
