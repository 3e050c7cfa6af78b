"""Configurations into one another: those of the motion UNet, of diffusers' UNet2DConditionModel and of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .adapter import MotionAdapterConfig
from .checks import MAX_BLOCKS, default_fields
from .unet import UNetMotionConfig

_COPIED = (
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "use_linear_projection",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "time_cond_proj_dim",
)

# Settings that change what an image UNet computes, with the only values that the motion UNet has.
_ONLY: dict[str, tuple[Any, ...]] = {
    # Behind its last norm an image UNet uses `act_fn` too, where the motion UNet always has SiLU.
    "act_fn": ("silu", "swish"),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "center_input_sample": (False,),
    "only_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "class_embeddings_concat": (False,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "attention_type": ("default",),
    "addition_embed_type": (None, "text_time"),
    "encoder_hid_dim_type": (None, "ip_image_proj"),
}
_BLOCK_TYPES = {
    "CrossAttnDownBlock2D": "CrossAttnDownBlockMotion",
    "DownBlock2D": "DownBlockMotion",
    "CrossAttnUpBlock2D": "CrossAttnUpBlockMotion",
    "UpBlock2D": "UpBlockMotion",
}


def unet2d_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``UNetMotionModel`` for the image UNet that ``config`` describes.

    ``attention_head_dim`` stands for the number of heads where ``num_attention_heads`` is not given, as in
    diffusers. ``upcast_attention`` and ``dropout`` do not change what the model computes and are left out.

    Raises:
        ValueError: a setting that the motion UNet does not have, with its name, its value and the legal ones.
    """
    skipped = default_fields(config)
    config = {key: value for key, value in config.items() if key not in skipped}
    for name, legal in _ONLY.items():
        if name in config and config[name] not in legal:
            words = " or ".join(repr(value) for value in legal)
            raise ValueError(f"`{name}` is {repr(config[name])[:80]}, the motion UNet exists with {words} only.")
    values = {name: config[name] for name in _COPIED if config.get(name) is not None}
    for name in ("down_block_types", "up_block_types"):
        if name in config:
            kinds = config[name]
            if not isinstance(kinds, (list, tuple)):
                raise ValueError(f"`{name}` is {repr(kinds)[:80]}, expected a list of names.")
            values[name] = tuple(_block_type(kind, name) for kind in kinds[: MAX_BLOCKS + 1])
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    values["num_attention_heads"] = tuple(heads) if isinstance(heads, list) else heads
    return values


def _block_type(kind: str, name: str) -> str:
    if not isinstance(kind, str) or kind not in _BLOCK_TYPES:
        raise ValueError(f"`{name}` holds {repr(kind)[:80]}, expected one of {', '.join(_BLOCK_TYPES)}.")
    return _BLOCK_TYPES[kind]


def motion_arguments(adapter: MotionAdapterConfig) -> dict[str, Any]:
    """An adapter's configuration as arguments of ``UNetMotionModel``."""
    return {
        "motion_max_seq_length": adapter.motion_max_seq_length,
        "motion_num_attention_heads": adapter.motion_num_attention_heads,
        "use_motion_mid_block": adapter.use_motion_mid_block,
        "temporal_transformer_layers_per_block": adapter.motion_transformer_layers_per_block,
        "temporal_transformer_layers_per_mid_block": adapter.motion_transformer_layers_per_mid_block,
        "reverse_temporal_transformer_layers_per_block": adapter.reverse_motion_transformer_layers_per_block,
        "reverse_motion_num_attention_heads": adapter.reverse_motion_num_attention_heads,
        "use_image_encoder": adapter.use_image_encoder,
    }


def joined_arguments(adapter: MotionAdapterConfig) -> dict[str, Any]:
    """:func:`motion_arguments`, and the channels of the input where the adapter brings an input layer (PIA)."""
    widened = {"in_channels": adapter.conv_in_channels} if adapter.conv_in_channels else {}
    return motion_arguments(adapter) | widened


def adapter_of(unet: UNetMotionConfig, with_input: bool = False) -> MotionAdapterConfig:
    """The configuration of the adapter that holds a UNet's motion modules, and its input layer if asked for."""
    depth = unet.temporal_transformer_layers_per_mid_block
    return MotionAdapterConfig(
        block_out_channels=unet.block_out_channels,
        motion_layers_per_block=unet.layers_per_block,
        motion_transformer_layers_per_block=unet.temporal_transformer_layers_per_block,
        motion_mid_block_layers_per_block=unet.mid_block_layers,
        motion_transformer_layers_per_mid_block=1 if depth is None else depth,
        motion_num_attention_heads=unet.motion_num_attention_heads,
        motion_norm_num_groups=unet.norm_num_groups,
        motion_max_seq_length=unet.motion_max_seq_length,
        use_motion_mid_block=unet.use_motion_mid_block,
        conv_in_channels=unet.in_channels if with_input else None,
        reverse_motion_transformer_layers_per_block=unet.reverse_temporal_transformer_layers_per_block,
        reverse_motion_num_attention_heads=unet.reverse_motion_num_attention_heads,
        use_image_encoder=unet.use_image_encoder,
    )


def adapter_config(adapter: nn.Module) -> MotionAdapterConfig:
    """The configuration of an adapter of ours or of diffusers."""
    config: Any = adapter.config
    return config if isinstance(config, MotionAdapterConfig) else MotionAdapterConfig.from_dict(dict(config))


def adapter_fields(values: dict[str, Any], config: MotionAdapterConfig) -> dict[str, Any]:
    """What an adapter adds to the arguments of a UNet.

    Raises:
        ValueError: an adapter for another UNet.
    """
    # What an image UNet's configuration leaves at its default is the same here.
    values = {name: getattr(UNetMotionConfig, name) for name in UNetMotionConfig.field_names()} | values
    blocks = len(values["down_block_types"])
    if len(config.block_out_channels) != blocks:
        raise ValueError(
            "Incompatible Motion Adapter, got different number of blocks: "
            f"{len(config.block_out_channels)}, the UNet has {blocks}."
        )
    for name, found, expected in (
        ("layers per block", config.motion_layers_per_block, values["layers_per_block"]),
        ("widths", config.block_out_channels, tuple(values["block_out_channels"])),
        ("norm groups", config.motion_norm_num_groups, values["norm_num_groups"]),
    ):
        if not _same_per_block(found, expected, blocks):
            raise ValueError(f"Incompatible Motion Adapter, got different {name}: {found}, the UNet has {expected}.")
    if config.use_motion_mid_block and config.motion_mid_block_layers_per_block != 1:
        raise ValueError(
            "Incompatible Motion Adapter, got different number of mid block layers: "
            f"{config.motion_mid_block_layers_per_block}, an image UNet has 1."
        )
    return joined_arguments(config)


def _same_per_block(a: Any, b: Any, blocks: int) -> bool:
    a, b = (tuple(v) if isinstance(v, (list, tuple)) else (v,) * blocks for v in (a, b))
    return a == b
