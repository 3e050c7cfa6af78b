"""The configuration of the motion UNet.

The fields, their order and their defaults are those of diffusers' ``UNetMotionModel``, so a ``config.json`` of either
project reads in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..values import quoted
from .fields import ConfigBase, PerBlock, check_length, check_motion_heads, check_numbers, per_block, per_layer

NORM_SCOPES: dict[str, tuple[str, str]] = {
    "diffusers": ("frame", "clip"),
    "v1": ("clip", "frame"),
    "v2": ("frame", "frame"),
    "v3": ("frame", "frame"),
    "sdxl": ("frame", "clip"),
}
"""Kind of motion module -> (``resnet_norm_scope``, ``motion_norm_scope``) that it was trained with."""

DOWN_BLOCK_TYPES = ("CrossAttnDownBlockMotion", "DownBlockMotion")
UP_BLOCK_TYPES = ("CrossAttnUpBlockMotion", "UpBlockMotion")
ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")


@dataclass(frozen=True)
class BlockPlan:
    """One resolution of the UNet with every setting spelled out per layer."""

    cross_attention: bool
    in_channels: int
    out_channels: int
    prev_output_channels: int
    layers: int
    depths: tuple[int, ...]
    motion_depths: tuple[int, ...]
    heads: int
    motion_heads: tuple[int, ...]
    cross_attention_dim: int
    resample: bool


_AT_LEAST_ONE = (
    "in_channels", "out_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim",
    "num_attention_heads", "motion_num_attention_heads", "motion_max_seq_length",
)  # fmt: skip
_AT_LEAST_ZERO = (
    "downsample_padding", "mid_block_layers", "transformer_layers_per_block", "temporal_transformer_layers_per_block",
)  # fmt: skip


@dataclass(frozen=True)
class UNetMotionConfig(ConfigBase):
    """Every constructor argument of :class:`unet_motion.UNetMotionModel`; lists become tuples.

    ``resnet_norm_scope`` and ``motion_norm_scope`` are this project's own: ``frame`` takes the statistics of a
    group norm per frame, ``clip`` over all frames of a clip (see :data:`NORM_SCOPES`).

    Raises:
        ValueError: a combination that cannot be built, with both values in the message.
    """

    class_name: ClassVar[str] = "UNetMotionModel"

    sample_size: int | None = None
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlockMotion",
        "CrossAttnDownBlockMotion",
        "CrossAttnDownBlockMotion",
        "DownBlockMotion",
    )
    up_block_types: tuple[str, ...] = (
        "UpBlockMotion",
        "CrossAttnUpBlockMotion",
        "CrossAttnUpBlockMotion",
        "CrossAttnUpBlockMotion",
    )
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: PerBlock = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: PerBlock = 1280
    transformer_layers_per_block: PerBlock = 1
    reverse_transformer_layers_per_block: PerBlock | None = None
    temporal_transformer_layers_per_block: PerBlock = 1
    reverse_temporal_transformer_layers_per_block: PerBlock | None = None
    transformer_layers_per_mid_block: PerBlock | None = None
    temporal_transformer_layers_per_mid_block: PerBlock | None = 1
    use_linear_projection: bool = False
    num_attention_heads: PerBlock = 8
    motion_max_seq_length: int = 32
    motion_num_attention_heads: PerBlock = 8
    reverse_motion_num_attention_heads: PerBlock | None = None
    use_motion_mid_block: bool = True
    mid_block_layers: int = 1
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    time_cond_proj_dim: int | None = None
    resnet_norm_scope: str = "frame"
    motion_norm_scope: str = "clip"
    use_image_encoder: bool = False

    def __post_init__(self) -> None:
        self._freeze_fields()
        self._check_lengths()
        self._check_values()
        for plan in (self.down_plans, self.up_plans, self.mid_depths, self.mid_motion_depths):
            plan()

    def _check_lengths(self) -> None:
        blocks = len(self.down_block_types)
        if blocks != len(self.up_block_types):
            raise ValueError(
                "Must provide the same number of `down_block_types` as `up_block_types`. "
                f"`down_block_types`: {self.down_block_types}. `up_block_types`: {self.up_block_types}."
            )
        for name in (
            "block_out_channels",
            "num_attention_heads",
            "cross_attention_dim",
            "layers_per_block",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
            "temporal_transformer_layers_per_block",
            "reverse_temporal_transformer_layers_per_block",
            "motion_num_attention_heads",
            "reverse_motion_num_attention_heads",
        ):
            check_length(name, getattr(self, name), blocks, "down_block_types")
        for name, words in (
            ("transformer_layers_per_block", "UNet"),
            ("temporal_transformer_layers_per_block", "motion module in UNet"),
        ):
            nested = any(isinstance(v, tuple) for v in per_block(getattr(self, name), blocks))
            if nested and getattr(self, f"reverse_{name}") is None:
                raise ValueError(
                    f"Must provide `reverse_{name}` if using an asymmetrical {words}: "
                    f"`{name}` is {getattr(self, name)}."
                )

    def _check_values(self) -> None:
        for name, legal, values in (
            ("down_block_type", DOWN_BLOCK_TYPES, self.down_block_types),
            ("up_block_type", UP_BLOCK_TYPES, self.up_block_types),
        ):
            for value in values:
                if value not in legal:
                    raise ValueError(
                        f"Invalid `{name}` {quoted(value)} encountered. Must be one of {legal[0]} or {legal[1]}."
                    )
        if self.act_fn not in ACTIVATIONS:
            raise ValueError(f"`act_fn` is {quoted(self.act_fn)}, expected one of {', '.join(ACTIVATIONS)}.")
        for name in _AT_LEAST_ONE:
            check_numbers(name, getattr(self, name))
        for name in _AT_LEAST_ZERO:
            check_numbers(name, getattr(self, name), least=0)
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"`block_out_channels` {self.block_out_channels} must be multiples of "
                    f"`norm_num_groups` {self.norm_num_groups}, found {width}."
                )
        if self.encoder_hid_dim_type not in (None, "ip_image_proj"):
            raise ValueError(
                f"`encoder_hid_dim_type` is {quoted(self.encoder_hid_dim_type)}, expected None or 'ip_image_proj'."
            )
        if self.addition_embed_type == "text_time":
            for name in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
                if getattr(self, name) is None:
                    raise ValueError(f"`addition_embed_type` 'text_time' needs `{name}`, which is None.")
        for name in ("resnet_norm_scope", "motion_norm_scope"):
            check_norm_scope(name, getattr(self, name))

    def down_plans(self) -> tuple[BlockPlan, ...]:
        """The down blocks from the highest resolution to the lowest."""
        blocks = len(self.down_block_types)
        layers = per_block(self.layers_per_block, blocks)
        depths = per_block(self.transformer_layers_per_block, blocks)
        motion_depths = per_block(self.temporal_transformer_layers_per_block, blocks)
        heads = per_block(self.num_attention_heads, blocks)
        motion_heads = per_block(self.motion_num_attention_heads, blocks)
        text_dims = per_block(self.cross_attention_dim, blocks)
        plans = []
        for i, kind in enumerate(self.down_block_types):
            width = self.block_out_channels[i]
            before = self.block_out_channels[max(i - 1, 0)]
            plans.append(
                self._plan(
                    kind == "CrossAttnDownBlockMotion",
                    (before, width, before),
                    layers[i],
                    ("transformer_layers_per_block", depths[i]),
                    ("temporal_transformer_layers_per_block", motion_depths[i]),
                    heads[i],
                    ("motion_num_attention_heads", motion_heads[i]),
                    text_dims[i],
                    i < blocks - 1,
                )
            )
        return tuple(plans)

    def up_plans(self) -> tuple[BlockPlan, ...]:
        """The up blocks from the lowest resolution to the highest, each with one layer more than its down block."""
        blocks = len(self.up_block_types)
        widths = self.block_out_channels[::-1]
        layers = per_block(self.layers_per_block, blocks)[::-1]
        heads = per_block(self.num_attention_heads, blocks)[::-1]
        text_dims = per_block(self.cross_attention_dim, blocks)[::-1]

        def reverse(name: str) -> tuple[str, tuple]:
            explicit = getattr(self, f"reverse_{name}")
            if explicit is not None:
                return f"reverse_{name}", per_block(explicit, blocks)
            return name, per_block(getattr(self, name), blocks)[::-1]

        depth_name, depths = reverse("transformer_layers_per_block")
        motion_name, motion_depths = reverse("temporal_transformer_layers_per_block")
        head_name, motion_heads = reverse("motion_num_attention_heads")
        plans = []
        for i, kind in enumerate(self.up_block_types):
            channels = (widths[min(i + 1, blocks - 1)], widths[i], widths[max(i - 1, 0)])
            plans.append(
                self._plan(
                    kind == "CrossAttnUpBlockMotion",
                    channels,
                    layers[i] + 1,
                    (depth_name, depths[i]),
                    (motion_name, motion_depths[i]),
                    heads[i],
                    (head_name, motion_heads[i]),
                    text_dims[i],
                    i < blocks - 1,
                )
            )
        return tuple(plans)

    def _plan(
        self, cross: bool, channels: tuple[int, int, int], layers: int, depth: tuple[str, Any],
        motion_depth: tuple[str, Any], heads: int, motion_heads: tuple[str, Any], text_dim: int, resample: bool,
    ) -> BlockPlan:  # fmt: skip
        depths = per_layer(*depth, layers) if cross else ()
        motion_depths = per_layer(*motion_depth, layers)
        heads_of_motion = per_layer(*motion_heads, layers)
        width = channels[1]
        check_motion_heads(motion_heads[0], heads_of_motion, width)
        if cross and width < heads:
            raise ValueError(f"`num_attention_heads` {heads} is more than the block's width {width}.")
        return BlockPlan(cross, *channels, layers, depths, motion_depths, heads, heads_of_motion, text_dim, resample)

    def mid_depths(self) -> tuple[int, ...]:
        """Spatial transformer depth of each layer of the mid block."""
        depth = self.transformer_layers_per_mid_block
        if depth is None:
            last = per_block(self.transformer_layers_per_block, len(self.down_block_types))[-1]
            depth = last if isinstance(last, int) else 1
        return per_layer("transformer_layers_per_mid_block", depth, self.mid_block_layers)

    def mid_motion_depths(self) -> tuple[int, ...]:
        """Motion-module depth of each layer of the mid block; empty without motion there."""
        if not self.use_motion_mid_block:
            return ()
        depth = self.temporal_transformer_layers_per_mid_block
        return per_layer(
            "temporal_transformer_layers_per_mid_block", 1 if depth is None else depth, self.mid_block_layers
        )

    def last(self, name: str) -> int:
        """The entry of a per-block field that belongs to the lowest resolution."""
        return per_block(getattr(self, name), len(self.down_block_types))[-1]

    def mid_motion_heads(self) -> int:
        """Heads of the mid block's motion modules."""
        heads = self.last("motion_num_attention_heads")
        return heads[-1] if isinstance(heads, tuple) else heads


def check_norm_scope(name: str, value: str) -> None:
    """Raise ValueError unless ``value`` is a norm scope."""
    if value not in ("frame", "clip"):
        raise ValueError(f"`{name}` is {quoted(value)}, expected 'frame' or 'clip'.")


SCOPE_FIELDS = ("resnet_norm_scope", "motion_norm_scope")
