"""The configuration of motion modules, read off the names and shapes of their tensors (diffusers' names)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...config.adapter import MotionAdapterConfig
from ...files.checking import Shapes
from ...files.errors import FileFormatError, KeyMismatchError
from ...files.names import is_encoder
from .blocks import BlockReader, check_groups, collapse, symmetric
from .partial_adapter import partial_layers

MOTION_HEADS = 8
DEFAULT_FRAMES = 32
LCM_FRAMES = 64


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
    depths, reverse = symmetric(down_depths, up_depths)
    check_groups(widths, "motion_norm_num_groups", path)
    return MotionAdapterConfig(
        block_out_channels=widths,
        motion_layers_per_block=layers,
        motion_transformer_layers_per_block=depths,
        reverse_motion_transformer_layers_per_block=reverse,
        motion_mid_block_layers_per_block=mid or 1,
        motion_transformer_layers_per_mid_block=collapse(reader.motion_depths("mid_block")) if mid else 1,
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
        collapse(reader.count(f"down_blocks.{i}.motion_modules") for i in blocks),
        [collapse(reader.motion_depths(f"down_blocks.{i}")) for i in blocks],
        [collapse(reader.motion_depths(f"up_blocks.{i}")) for i in blocks],
    )


def table_rows(shapes: Shapes, path: str | Path) -> int | None:
    """Rows of the position tables, or None without any."""
    rows: dict[int, str] = {}
    for key, shape in shapes.items():
        if key.endswith(".pos_embed.pe"):
            if len(shape) != 3 or shape[0] != 1:
                raise KeyMismatchError(f"{path}: {key} has shape {list(shape)}, expected (1, frames, channels).")
            rows.setdefault(shape[1], key)
    if len(rows) > 1:
        listed = ", ".join(f"{count} in {key}" for count, key in sorted(rows.items()))
        raise FileFormatError(f"{path}: position tables of unequal length ({listed}), expected one length.")
    return next(iter(rows), None)
