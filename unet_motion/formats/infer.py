"""Constructor arguments of the models, read off the names and shapes of their tensors (diffusers' names).

Some settings leave no trace in a file. They are taken from the families that exist: eight attention heads where the
spatial transformers project with 1x1 convolutions (Stable Diffusion 1), heads of width 64 where they project
linearly (Stable Diffusion 2 and XL), eight motion heads and groups of 32 channels everywhere, an embedding of 256
per size number beside the pooled text (XL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..adapter_config import MotionAdapterConfig
from ..config import UNetMotionConfig
from ..image_encoder import is_encoder
from .claims import check_dimensions
from .errors import FileFormatError, KeyMismatchError, name_some
from .infer_partial import partial_layers
from .keys import count_indexed

Shapes = Mapping[str, Sequence[int]]

MOTION_HEADS = 8
SPATIAL_HEADS = 8
LINEAR_HEAD_WIDTH = 64
SIZE_EMBED_DIM = 256
DEFAULT_FRAMES = 32
LCM_FRAMES = 64


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
        "layers_per_block": _collapse(block.layers for block in down),
        "mid_block_layers": mid.layers - 1,
        "use_linear_projection": linear,
        "cross_attention_dim": _text_dims(down, up, mid, path),
        "num_attention_heads": _heads(widths, linear, path),
        **_depths(down, up, mid),
        **_embeddings(reader),
    }
    return values


def infer_adapter(shapes: Shapes, path: str | Path, frames: int | None = None) -> MotionAdapterConfig:
    """The configuration of motion modules that have diffusers' names.

    A file may leave out whole blocks: the configuration is that of the motion module with all of them.

    Args:
        frames: rows of the position tables where the file holds none.

    Raises:
        KeyMismatchError: a name without which nothing can be inferred is missing, or the blocks do not tell the
            structure.
        FileFormatError: position tables of unequal length, or widths that no known family has.
    """
    reader = BlockReader(shapes, path)
    mid = reader.count("mid_block.motion_modules")
    widths, layers, down_depths, up_depths = _whole_layers(reader) or partial_layers(reader)
    depths, reverse = _symmetric(down_depths, up_depths)
    _check_groups(widths, "motion_norm_num_groups", path)
    return MotionAdapterConfig(
        block_out_channels=widths,
        motion_layers_per_block=layers,
        motion_transformer_layers_per_block=depths,
        reverse_motion_transformer_layers_per_block=reverse,
        motion_mid_block_layers_per_block=mid or 1,
        motion_transformer_layers_per_mid_block=_collapse(reader.motion_depths("mid_block")) if mid else 1,
        motion_num_attention_heads=MOTION_HEADS,
        motion_max_seq_length=table_rows(shapes, path) or frames or DEFAULT_FRAMES,
        use_motion_mid_block=mid > 0,
        conv_in_channels=reader.shape("conv_in.weight", 4)[1] if "conv_in.weight" in shapes else None,
        use_image_encoder=any(map(is_encoder, shapes)),
    )


def _whole_layers(reader: BlockReader) -> tuple[tuple[int, ...], Any, list, list] | None:
    """Widths, motion modules per block, depths down and up; None where blocks are left out."""
    down, up = reader.motion_blocks("down_blocks"), reader.motion_blocks("up_blocks")
    blocks = range(len(down))
    if not down or down != up or down != set(blocks):
        return None
    return (
        tuple(reader.shape(f"down_blocks.{i}.motion_modules.0.norm.weight", 1)[0] for i in blocks),
        _collapse(reader.count(f"down_blocks.{i}.motion_modules") for i in blocks),
        [_collapse(reader.motion_depths(f"down_blocks.{i}")) for i in blocks],
        [_collapse(reader.motion_depths(f"up_blocks.{i}")) for i in blocks],
    )


def table_rows(shapes: Shapes, path: str | Path) -> int | None:
    """Rows of the position tables, or None without any."""
    rows = {}
    for key, shape in shapes.items():
        if key.endswith(".pos_embed.pe"):
            if len(shape) != 3 or shape[0] != 1:
                raise KeyMismatchError(f"{path}: {key} has shape {list(shape)}, expected (1, frames, channels).")
            rows.setdefault(shape[1], key)
    if len(rows) > 1:
        listed = ", ".join(f"{count} in {key}" for count, key in sorted(rows.items()))
        raise FileFormatError(f"{path}: position tables of unequal length ({listed}), expected one length.")
    return next(iter(rows), None)


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


def adapter_of(unet: UNetMotionConfig) -> MotionAdapterConfig:
    """The configuration of the adapter that holds a UNet's motion modules."""
    return MotionAdapterConfig(
        block_out_channels=unet.block_out_channels,
        motion_layers_per_block=unet.layers_per_block,
        motion_transformer_layers_per_block=unet.temporal_transformer_layers_per_block,
        motion_mid_block_layers_per_block=unet.mid_block_layers,
        motion_transformer_layers_per_mid_block=unet.temporal_transformer_layers_per_mid_block or 1,
        motion_num_attention_heads=unet.motion_num_attention_heads,
        motion_norm_num_groups=unet.norm_num_groups,
        motion_max_seq_length=unet.motion_max_seq_length,
        use_motion_mid_block=unet.use_motion_mid_block,
        reverse_motion_transformer_layers_per_block=unet.reverse_temporal_transformer_layers_per_block,
        reverse_motion_num_attention_heads=unet.reverse_motion_num_attention_heads,
        use_image_encoder=unet.use_image_encoder,
    )


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


class _Block:
    """What the names of one block tell."""

    def __init__(self, width: int, layers: int, depths: list[int], linear: bool, text_dims: set[int]) -> None:
        self.width, self.layers, self.depths, self.linear, self.text_dims = width, layers, depths, linear, text_dims


class BlockReader:
    """Shapes by name, with errors that name the file."""

    def __init__(self, shapes: Shapes, path: str | Path) -> None:
        self.shapes, self.path = shapes, path
        self._children: dict[str, set[int]] = {}
        number = re.compile(r"\.(\d+)(?=\.)")
        for key in shapes:
            for match in islice(number.finditer(key), 4):  # no name has more
                self._children.setdefault(key[: match.start()], set()).add(int(match.group(1)))

    def shape(self, key: str, dimensions: int | None = None) -> Sequence[int]:
        if key not in self.shapes:
            raise KeyMismatchError(f"{self.path}: tensor {key} is missing, expected a whole UNet or motion module.")
        if dimensions is not None:
            check_dimensions(self.path, key, self.shapes[key], dimensions)
        return self.shapes[key]

    def count(self, prefix: str) -> int:
        """Number of children, which are counted from 0 without holes."""
        found = self._children.get(prefix, set())
        if found != set(range(len(found))):
            raise KeyMismatchError(
                f"{self.path}: {prefix} has entries {name_some(map(str, sorted(found)))}, expected them numbered from "
                "0 without holes."
            )
        return len(found)

    def motion_blocks(self, way: str) -> set[int]:
        """Numbers of the blocks of one way that have motion modules."""
        return {i for i in self._children.get(way, ()) if self._children.get(f"{way}.{i}.motion_modules")}

    def motion_depths(self, block: str) -> list[int]:
        """Transformer blocks of each motion module of a block."""
        modules = range(self.count(f"{block}.motion_modules"))
        return [self.count(f"{block}.motion_modules.{i}.transformer_blocks") for i in modules]

    def block(self, name: str) -> _Block:
        layers, attentions = self.count(f"{name}.resnets"), self.count(f"{name}.attentions")
        width = self.shape(f"{name}.resnets.0.conv1.weight", 4)[0]
        depths = [self.count(f"{name}.attentions.{i}.transformer_blocks") for i in range(attentions)]
        text_dims, linear = set(), False
        for i in range(attentions):
            linear |= len(self.shape(f"{name}.attentions.{i}.proj_in.weight")) == 2
            text_dims.add(self.shape(f"{name}.attentions.{i}.transformer_blocks.0.attn2.to_k.weight", 2)[1])
        return _Block(width, layers, depths, linear, text_dims)


def _collapse(values) -> Any:
    """One number where all entries agree, else the tuple of them."""
    values = tuple(values)
    return values[0] if values and all(v == values[0] for v in values) else values


def _text_dims(down: list[_Block], up: list[_Block], mid: _Block, path: str | Path) -> int | tuple[int, ...]:
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


def _depths(down: list[_Block], up: list[_Block], mid: _Block) -> dict[str, Any]:
    """Spatial depths; a block without transformers takes those of its opposite, or 1."""
    going_down = [_collapse(block.depths) if block.depths else None for block in down]
    going_up = [_collapse(block.depths) if block.depths else None for block in up]
    for i, j in zip(range(len(down)), reversed(range(len(up))), strict=False):
        going_down[i] = going_down[i] or going_up[j] or 1
        going_up[j] = going_up[j] or going_down[i]
    depths, reverse = _symmetric(going_down, going_up)
    return {
        "transformer_layers_per_block": depths,
        "reverse_transformer_layers_per_block": reverse,
        "transformer_layers_per_mid_block": _collapse(mid.depths) if mid.depths else None,
    }


def _symmetric(down: list[Any], up: list[Any]) -> tuple[Any, Any]:
    """Depths per block, and those of the way up where they are not the way down reversed."""
    symmetric = list(reversed(down)) == up and not any(isinstance(depth, tuple) for depth in down)
    return _collapse(down), None if symmetric else tuple(up)


def _heads(widths: list[int], linear: bool, path: str | Path) -> int | tuple[int, ...]:
    _check_groups(widths, "norm_num_groups", path)
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


def _check_groups(widths: Sequence[int], name: str, path: str | Path) -> None:
    if any(width % 32 for width in widths):
        raise FileFormatError(
            f"{path}: block widths {list(widths)} are not multiples of 32, and `{name}` cannot be seen in a file: "
            "use a folder with a config.json."
        )


def _embeddings(reader: BlockReader) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "time_embedding.cond_proj.weight" in reader.shapes:
        values["time_cond_proj_dim"] = reader.shape("time_embedding.cond_proj.weight", 2)[1]
    if "add_embedding.linear_1.weight" in reader.shapes:
        values["addition_embed_type"] = "text_time"
        values["addition_time_embed_dim"] = SIZE_EMBED_DIM
        values["projection_class_embeddings_input_dim"] = reader.shape("add_embedding.linear_1.weight", 2)[1]
    return values
