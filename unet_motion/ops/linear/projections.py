"""Several linear layers of one input, without biases: queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import is_watched, on_card, weights_of
from . import float8, packed, shared_input


def project(layers: Sequence[nn.Linear], x: Tensor, fused: bool = False) -> tuple[Tensor, ...]:
    """``layer(x)`` of each layer, x (..., C); views of one tensor where they are one product.

    That they are where the layers are packed, on a graphics card, and where it is asked for (``fused``).
    """
    if (outs := float8.project(layers, x)) is not None:
        return outs
    if on_card(x.device) and (joined := packed.product(layers, x)) is not None:
        return joined.split([layer.out_features for layer in layers], dim=-1)
    # A layer with a forward hook, such as a LoRA's, has to be called.
    if fused and not is_watched(*layers) and not any(map(float8.is_float8, layers)):
        # The product is built from the current weights, so edits and LoRA patches reach it.
        weights = [weights_of(layer, x)[0] for layer in layers]
        return F.linear(x, torch.cat(weights)).split([len(weight) for weight in weights], dim=-1)
    if shared_input.serves(layers, x):
        return shared_input.project(x, layers)
    return tuple(layer(x) for layer in layers)
