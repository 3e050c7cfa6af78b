"""Which products of a network are computed in float8, and what such a network refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from ..ops.linear import float8
from ..values import quoted
from .attention import Attention
from .motion_module import MotionModule
from .transformer import FeedForward, SpatialTransformer

LEAST_OUTPUTS = 960
"""Outputs of a product from which on what it saves is more than rounding its input takes, by count; see
benchmarks/README.md."""


def enable(network: nn.Module, least_outputs: int = LEAST_OUTPUTS) -> list[str]:
    """See :meth:`unet_motion.UNetMotionModel.enable_float8_products`."""
    if isinstance(least_outputs, bool) or not isinstance(least_outputs, int) or least_outputs < 0:
        raise ValueError(f"`least_outputs` is {quoted(least_outputs)}, expected a whole number of at least 0.")
    paths = {layer: path for path, layer in network.named_modules()}
    for layer in (layer for group in _groups(network) for layer in group):
        if reason := float8.declines(layer):
            raise ValueError(f"{paths[layer]} {reason} to round to float8.")
    convert(network, least_outputs)
    return [path for layer, path in paths.items() if float8.is_float8(layer)]


def convert(network: nn.Module, least_outputs: int = LEAST_OUTPUTS) -> None:
    """Turn the layers that fit, and have so many outputs together where they read the same input, into float8."""
    for group in _groups(network):
        if all(map(float8.fits, group)) and sum(map(_outputs, group)) >= least_outputs:
            float8.convert(group)


def arrange(network: nn.Module) -> None:
    """Put the weights of layers that read the same input behind each other again, after a move."""
    for group in _groups(network):
        float8.pack(group)


def refuse(network: nn.Module, what: str) -> None:
    """Raise ValueError where a network has float8 products, whose rounded weights are no good for ``what``."""
    if any(map(float8.is_float8, network.modules())):
        raise ValueError(
            f"the UNet's weights are rounded to float8 for its products, expected a UNet without "
            f"`enable_float8_products` {what}."
        )


def _groups(network: nn.Module) -> Iterator[tuple[nn.Module, ...]]:
    """The layers around attention and feed-forward, those that read the same input together."""
    for module in network.modules():
        if isinstance(module, Attention):
            yield module.same_input
            yield from ((layer,) for layer in (module.to_q, module.to_out[0]) if layer not in module.same_input)
        elif isinstance(module, FeedForward):
            first, last = module.layers
            yield from ((first.proj,), (last,))
        elif isinstance(module, (SpatialTransformer, MotionModule)):
            yield from ((module.proj_in,), (module.proj_out,))


def _outputs(layer: nn.Module) -> int:
    return len(cast(Tensor, layer.weight))
