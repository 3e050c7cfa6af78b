"""The configuration of the motion adapter: fields, order and defaults are those of diffusers' ``MotionAdapter``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from .fields import ConfigBase, PerBlock, check_length, check_motion_heads, check_numbers, per_block, per_layer

_LEGACY_ADAPTER_FIELDS = ("motion_activation_fn", "motion_attention_bias", "motion_cross_attention_dim")


@dataclass(frozen=True)
class MotionAdapterConfig(ConfigBase):
    """Every constructor argument of :class:`unet_motion.MotionAdapter`; lists become tuples.

    Raises:
        ValueError: a tuple whose length does not fit, with both values in the message.
    """

    class_name: ClassVar[str] = "MotionAdapter"

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    motion_layers_per_block: PerBlock = 2
    motion_transformer_layers_per_block: PerBlock = 1
    motion_mid_block_layers_per_block: int = 1
    motion_transformer_layers_per_mid_block: PerBlock = 1
    motion_num_attention_heads: PerBlock = 8
    motion_norm_num_groups: int = 32
    motion_max_seq_length: int = 32
    use_motion_mid_block: bool = True
    conv_in_channels: int | None = None
    reverse_motion_transformer_layers_per_block: PerBlock | None = None
    reverse_motion_num_attention_heads: PerBlock | None = None
    use_image_encoder: bool = False

    def __post_init__(self) -> None:
        self._freeze_fields()
        blocks = len(self.block_out_channels)
        for name in (
            "motion_layers_per_block",
            "motion_transformer_layers_per_block",
            "motion_num_attention_heads",
            "reverse_motion_transformer_layers_per_block",
            "reverse_motion_num_attention_heads",
        ):
            check_length(name, getattr(self, name), blocks, "block_out_channels")
        for name in (
            "block_out_channels",
            "motion_layers_per_block",
            "motion_num_attention_heads",
            "motion_norm_num_groups",
            "motion_max_seq_length",
        ):
            check_numbers(name, getattr(self, name))
        for width in self.block_out_channels:
            if width % self.motion_norm_num_groups:
                raise ValueError(
                    f"`block_out_channels` {self.block_out_channels} must be multiples of "
                    f"`motion_norm_num_groups` {self.motion_norm_num_groups}, found {width}."
                )
        self.mid_depths()
        for width, heads, _ in (*self.down_layers(), *self.up_layers()):
            check_motion_heads("motion_num_attention_heads", heads, width)

    @classmethod
    def from_dict(cls, values: dict[str, Any]):
        # Written by early releases of diffusers; every published adapter has the value that is fixed today.
        legacy = [name for name in _LEGACY_ADAPTER_FIELDS if name in values]
        if legacy:
            warnings.warn(f"MotionAdapter: legacy configuration keys are ignored: {', '.join(legacy)}", stacklevel=2)
        return super().from_dict({k: v for k, v in values.items() if k not in legacy})

    def to_dict(self) -> dict[str, Any]:
        # diffusers knows no `reverse_` fields: they are written only where the adapter needs them.
        values = super().to_dict()
        return {k: v for k, v in values.items() if not (k.startswith("reverse_") and v is None)}

    def down_layers(self) -> tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]:
        """Per down block: width, heads and depth of each motion module."""
        blocks = len(self.block_out_channels)
        layers = per_block(self.motion_layers_per_block, blocks)
        depths = per_block(self.motion_transformer_layers_per_block, blocks)
        heads = per_block(self.motion_num_attention_heads, blocks)
        return tuple(
            (
                width,
                per_layer("motion_num_attention_heads", heads[i], layers[i]),
                per_layer("motion_transformer_layers_per_block", depths[i], layers[i]),
            )
            for i, width in enumerate(self.block_out_channels)
        )

    def up_layers(self) -> tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]:
        """Per up block: width, heads and depth of each motion module (one module more than going down)."""
        blocks = len(self.block_out_channels)
        layers = per_block(self.motion_layers_per_block, blocks)[::-1]

        def reverse(name: str) -> tuple[str, tuple]:
            explicit = getattr(self, f"reverse_{name}")
            if explicit is not None:
                return f"reverse_{name}", per_block(explicit, blocks)
            return name, per_block(getattr(self, name), blocks)[::-1]

        depth_name, depths = reverse("motion_transformer_layers_per_block")
        head_name, heads = reverse("motion_num_attention_heads")
        return tuple(
            (width, per_layer(head_name, heads[i], layers[i] + 1), per_layer(depth_name, depths[i], layers[i] + 1))
            for i, width in enumerate(self.block_out_channels[::-1])
        )

    def mid_depths(self) -> tuple[int, ...]:
        """Depth of each motion module of the mid block; empty without a mid block."""
        if not self.use_motion_mid_block:
            return ()
        return per_layer(
            "motion_transformer_layers_per_mid_block",
            self.motion_transformer_layers_per_mid_block,
            self.motion_mid_block_layers_per_block,
        )

    def mid_heads(self) -> int:
        """Heads of the mid block's motion modules."""
        heads = per_block(self.motion_num_attention_heads, len(self.block_out_channels))[-1]
        return heads[-1] if isinstance(heads, tuple) else heads
