"""Between the core's configuration and ComfyUI's `unet_config` of latent-diffusion UNets."""

from __future__ import annotations

from typing import Any

from ....unet_motion import MotionAdapterConfig, UNetMotionConfig

SD15_TEXT_WIDTH = 768
SDXL_TEXT_WIDTH = 2048
SIZE_EMBED_DIM = 256
CROSS = ("CrossAttnDownBlockMotion", "CrossAttnUpBlockMotion")
PLAIN = ("DownBlockMotion", "UpBlockMotion")


def to_comfy(config: UNetMotionConfig) -> dict[str, Any]:
    """The keys by which ComfyUI's LoRA, FreeU and merge code know a UNet's structure."""
    down, up = config.down_plans(), config.up_plans()
    base = config.block_out_channels[0]
    has_label = config.addition_embed_type == "text_time"
    depths_up = [depth for plan in up for depth in (plan.depths or (0,) * plan.layers)]
    return {
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": base,
        "channel_mult": [plan.out_channels // base for plan in down],
        "num_res_blocks": [plan.layers for plan in down],
        "transformer_depth": [depth for plan in down for depth in (plan.depths or (0,) * plan.layers)],
        "transformer_depth_output": depths_up[::-1],
        "transformer_depth_middle": config.mid_depths()[0],
        "context_dim": config.last("cross_attention_dim"),
        **_heads(config, [plan.out_channels for plan in down]),
        "use_linear_in_transformer": config.use_linear_projection,
        "use_spatial_transformer": True,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_checkpoint": False,
        "legacy": False,
        "num_classes": "sequential" if has_label else None,
        "adm_in_channels": config.projection_class_embeddings_input_dim if has_label else None,
    }


def _heads(config: UNetMotionConfig, widths: list[int]) -> dict[str, int]:
    """ComfyUI's two ways: as many heads at every level, or heads of one width."""
    count = config["num_attention_heads"]
    if isinstance(count, int) or len(set(count)) == 1:
        return {"num_heads": config.last("num_attention_heads"), "num_head_channels": -1}
    return {"num_heads": -1, "num_head_channels": widths[-1] // count[-1]}


def _is_sdxl(unet_config: dict[str, Any]) -> bool:
    levels, adm = len(unet_config.get("channel_mult") or ()), unet_config.get("adm_in_channels")
    return levels == 3 and adm is not None and unet_config.get("context_dim") == SDXL_TEXT_WIDTH


def check_sd15(unet_config: dict[str, Any]) -> None:
    """Raise ValueError unless ComfyUI's `unet_config` is that of an SD1.5 UNet (of any width)."""
    levels = len(unet_config.get("channel_mult") or ())
    text = unet_config.get("context_dim")
    linear = unet_config.get("use_linear_in_transformer")
    is_label = unet_config.get("adm_in_channels") is not None
    if levels != 4 or text != SD15_TEXT_WIDTH or linear or is_label or unet_config.get("use_temporal_attention"):
        raise ValueError(
            f"`model` is not an SD1.5 model: it has {levels} resolution levels and a text width of {text}, "
            f"expected 4 levels, a text width of {SD15_TEXT_WIDTH} and no pooled text."
        )


def from_comfy(unet_config: dict[str, Any]) -> dict[str, Any]:
    """The core's arguments for an SD1.5 or SDXL UNet of ComfyUI, without its motion modules.

    Raises:
        ValueError: the model is neither.
    """
    is_sdxl = _is_sdxl(unet_config)
    if not is_sdxl:
        check_sd15(unet_config)
    layers = unet_config["num_res_blocks"]
    layers = [layers] * len(unet_config["channel_mult"]) if isinstance(layers, int) else list(layers)
    ends = [sum(layers[: level + 1]) for level in range(len(layers))]
    depths = unet_config["transformer_depth"]
    cross = [any(depths[end - count : end]) for end, count in zip(ends, layers, strict=True)]
    width = unet_config["model_channels"]
    return {
        **(
            _sdxl_arguments(unet_config, ends)
            if is_sdxl
            else {"num_attention_heads": unet_config["num_heads"], "transformer_layers_per_block": 1}
        ),
        "in_channels": unet_config["in_channels"],
        "out_channels": unet_config["out_channels"],
        "block_out_channels": tuple(width * mult for mult in unet_config["channel_mult"]),
        "layers_per_block": tuple(layers),
        "down_block_types": tuple(CROSS[0] if has else PLAIN[0] for has in cross),
        "up_block_types": tuple(CROSS[1] if has else PLAIN[1] for has in cross[::-1]),
        "cross_attention_dim": unet_config["context_dim"],
    }


def _sdxl_arguments(unet_config: dict[str, Any], ends: list[int]) -> dict[str, Any]:
    """What an SDXL UNet has beyond SD1.5: depths, heads of one width, linear projections and the size vector."""
    depths = [unet_config["transformer_depth"][end - 1] for end in ends]
    head = unet_config["num_head_channels"]
    widths = [unet_config["model_channels"] * mult for mult in unet_config["channel_mult"]]
    return {
        "num_attention_heads": tuple(width // head for width in widths),
        "transformer_layers_per_block": tuple(depth or 1 for depth in depths),
        "transformer_layers_per_mid_block": unet_config["transformer_depth_middle"],
        "use_linear_projection": unet_config["use_linear_in_transformer"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_EMBED_DIM,
        "projection_class_embeddings_input_dim": unet_config["adm_in_channels"],
    }


def check_fits(motion: MotionAdapterConfig, unet: dict[str, Any], name: str) -> None:
    """Raise ValueError unless motion modules have the channels of the UNet (the core's arguments)."""
    found, expected = motion.block_out_channels, unet["block_out_channels"]
    if tuple(found) != tuple(expected):
        family = "SDXL" if len(found) == 3 else "SD1.5" if len(expected) == 3 else "a UNet of another width"
        base = "SDXL" if len(expected) == 3 else "SD1.5"
        raise ValueError(
            f"{name} is a motion module for {family} ({len(found)} levels with channels {tuple(found)}), "
            f"but `model` is {base} ({len(expected)} levels with channels {tuple(expected)})."
        )
