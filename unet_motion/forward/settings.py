"""What layers are to do in a call: the model's defaults under the options of the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.freeu import FreeU
from .options import INHERIT, ForwardOptions

OPTIONS = ("freeu", "forward_chunking", "resnet_norm_scope", "motion_norm_scope")
"""Settings that :class:`ForwardOptions` may choose for a call."""


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a function, keeping its inputs alone for the backward pass."""
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False))


@dataclass(frozen=True)
class Settings:
    """Plain values that do not change in a call; equal settings compute the same.

    Attributes:
        freeu: factors, or None for no FreeU.
        forward_chunking: (chunk_size, dim) of the feed-forward layers, or None.
        resnet_norm_scope, motion_norm_scope: ``frame`` or ``clip``.
        fused_projections: queries, keys and values are one product.
        checkpointing: how activations are computed again in the backward pass (a function that is called with a layer's
            function and its inputs), or None: they are kept.
    """

    freeu: FreeU | None = None
    forward_chunking: tuple[int, int] | None = None
    resnet_norm_scope: str = "frame"
    motion_norm_scope: str = "clip"
    fused_projections: bool = False
    checkpointing: Callable[..., Any] | None = None

    def under(self, options: ForwardOptions) -> Settings:
        """These settings with what the options of a call choose in their place."""
        # Not dataclasses.replace: not every torch that is supported compiles it.
        values = {name: getattr(self, name) for name in _FIELDS}
        for name in OPTIONS:
            chosen = getattr(options, name)
            if chosen is not INHERIT:
                values[name] = chosen
        return Settings(**values)


_FIELDS = tuple(field.name for field in fields(Settings))
