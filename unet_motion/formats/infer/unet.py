"""Constructor arguments of the models, read off the names and shapes of their tensors (diffusers' names).

Some settings leave no trace in a file. They are taken from the families that exist: eight attention heads where the
spatial transformers project with 1x1 convolutions (Stable Diffusion 1), heads of width 64 where they project
linearly (Stable Diffusion 2 and XL), eight motion heads and groups of 32 channels everywhere, an embedding of 256
per size number beside the pooled text (XL).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files.checking import Shapes
from ...files.errors import FileFormatError
from ..names.keys import count_indexed
from .blocks import Block, BlockReader, check_groups, collapse, symmetric

SPATIAL_HEADS = 8
LINEAR_HEAD_WIDTH = 64
SIZE_EMBED_DIM = 256


def infer_unet(shapes: Shapes, path: str | Path) -> dict[str, Any]:
    """Arguments of ``UNetMotionModel`` for everything but the motion modules.

    Raises:
        KeyMismatchError: a name without which nothing can be inferred is missing.
        FileFormatError: widths that no known family has.
    """
    reader = BlockReader(shapes, path)
    blocks = count_indexed(shapes, r"down_blocks\.(\d+)\.")
    down = [reader.block(f"down_blocks.{i}") for i in range(blocks)]
    up = [reader.block(f"up_blocks.{i}") for i in range(count_indexed(shapes, r"up_blocks\.(\d+)\."))]
    mid = reader.block("mid_block")
    widths = [block.width for block in down]
    linear = any(block.linear for block in (*down, *up, mid))
    values: dict[str, Any] = {
        "in_channels": reader.shape("conv_in.weight", 4)[1],
        "out_channels": reader.shape("conv_out.weight", 4)[0],
        "block_out_channels": tuple(widths),
        "down_block_types": tuple("CrossAttnDownBlockMotion" if b.depths else "DownBlockMotion" for b in down),
        "up_block_types": tuple("CrossAttnUpBlockMotion" if b.depths else "UpBlockMotion" for b in up),
        "layers_per_block": collapse(block.layers for block in down),
        "mid_block_layers": mid.layers - 1,
        "use_linear_projection": linear,
        "cross_attention_dim": _text_dims(down, up, mid, path),
        "num_attention_heads": _heads(widths, linear, path),
        **_depths(down, up, mid),
        **_embeddings(reader),
    }
    return values


def unet_family(values: Mapping[str, Any]) -> str:
    """``sd1``, ``sd2``, ``sdxl``, ``sdxl-refiner`` or ``custom``: what the shapes of a UNet are called."""
    widths, text = tuple(values["block_out_channels"]), values["cross_attention_dim"]
    if widths == (320, 640, 1280, 1280) and not values.get("addition_embed_type"):
        if text == 768 and not values["use_linear_projection"]:
            return "sd1"
        if text == 1024 and values["use_linear_projection"]:
            return "sd2"
    if values.get("addition_embed_type") and widths == (320, 640, 1280) and text == 2048:
        return "sdxl"
    if values.get("addition_embed_type") and widths == (384, 768, 1536, 1536):
        return "sdxl-refiner"
    return "custom"


def _text_dims(down: list[Block], up: list[Block], mid: Block, path: str | Path) -> int | tuple[int, ...]:
    every = set().union(*(block.text_dims for block in (*down, *up, mid)))
    if not every:
        raise FileFormatError(f"{path}: has no cross-attention, expected a UNet that is conditioned on text.")
    if len(every) == 1:
        return every.pop()
    fill = max(every)
    return tuple(
        next(iter(below.text_dims or above.text_dims or {fill}))
        for below, above in zip(down, reversed(up), strict=False)
    )


def _depths(down: list[Block], up: list[Block], mid: Block) -> dict[str, Any]:
    """Spatial depths; a block without transformers takes those of its opposite, or 1."""
    going_down = [collapse(block.depths) if block.depths else None for block in down]
    going_up = [collapse(block.depths) if block.depths else None for block in up]
    for i, j in zip(range(len(down)), reversed(range(len(up))), strict=False):
        going_down[i] = going_down[i] or going_up[j] or 1
        going_up[j] = going_up[j] or going_down[i]
    depths, reverse = symmetric(going_down, going_up)
    return {
        "transformer_layers_per_block": depths,
        "reverse_transformer_layers_per_block": reverse,
        "transformer_layers_per_mid_block": collapse(mid.depths) if mid.depths else None,
    }


def _heads(widths: list[int], linear: bool, path: str | Path) -> int | tuple[int, ...]:
    check_groups(widths, "norm_num_groups", path)
    if not linear:
        if any(width % SPATIAL_HEADS for width in widths):
            raise FileFormatError(
                f"{path}: block widths {widths} do not divide into {SPATIAL_HEADS} attention heads, and the number of "
                "heads cannot be seen in a file: use a folder with a config.json."
            )
        return SPATIAL_HEADS
    if any(width % LINEAR_HEAD_WIDTH for width in widths):
        raise FileFormatError(
            f"{path}: block widths {widths} do not divide into attention heads of width {LINEAR_HEAD_WIDTH}, and the "
            "number of heads cannot be seen in a file: use a folder with a config.json."
        )
    return tuple(width // LINEAR_HEAD_WIDTH for width in widths)


def _embeddings(reader: BlockReader) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "time_embedding.cond_proj.weight" in reader.shapes:
        values["time_cond_proj_dim"] = reader.shape("time_embedding.cond_proj.weight", 2)[1]
    if "add_embedding.linear_1.weight" in reader.shapes:
        values["addition_embed_type"] = "text_time"
        values["addition_time_embed_dim"] = SIZE_EMBED_DIM
        values["projection_class_embeddings_input_dim"] = reader.shape("add_embedding.linear_1.weight", 2)[1]
    return values
