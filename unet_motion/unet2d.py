"""The configuration of diffusers' UNet2DConditionModel as arguments of the motion UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config_checks import MAX_BLOCKS, default_fields

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
