"""What layers are to do in a call: the model's defaults under the options of the call."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .freeu import FreeU
from .options import INHERIT, ForwardOptions

OPTIONS = ("freeu", "forward_chunking", "resnet_norm_scope", "motion_norm_scope")
"""Settings that :class:`ForwardOptions` may choose for a call."""


@dataclass(frozen=True)
class Settings:
    """Plain values that do not change in a call; equal settings compute the same.

    Attributes:
        freeu: factors, or None for no FreeU.
        forward_chunking: (chunk_size, dim) of the feed-forward layers, or None.
        resnet_norm_scope, motion_norm_scope: ``frame`` or ``clip``.
        fused_projections: queries, keys and values are one product.
        checkpointing: activations are computed again in the backward pass.
    """

    freeu: FreeU | None = None
    forward_chunking: tuple[int, int] | None = None
    resnet_norm_scope: str = "frame"
    motion_norm_scope: str = "clip"
    fused_projections: bool = False
    checkpointing: bool = False

    def under(self, options: ForwardOptions) -> Settings:
        """These settings with what the options of a call choose in their place."""
        chosen = {name: getattr(options, name) for name in OPTIONS}
        return replace(self, **{name: value for name, value in chosen.items() if value is not INHERIT})
