"""What a configuration claims, compared with the tensors beside it before a model is built from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..config.adapter import MotionAdapterConfig
from ..config.unet import UNetMotionConfig
from .errors import FileFormatError, shorten
from .names import is_table
from .reading import TensorSource

_SPARE = 200
"""Layers that may be missing: of blocks that a partial file leaves out, and motion modules that an image UNet lacks."""
_TENSORS_PER_LAYER = 8
"""The least that a layer has."""
_SPARE_BYTES = 2**24


def check_claims(
    path: str | Path, config: UNetMotionConfig | MotionAdapterConfig, source: TensorSource, names: Iterable[str]
) -> None:
    """Raise FileFormatError if a configuration describes a much larger model than its file can hold.

    Args:
        names: of the tensors, by diffusers' names.
    """
    layers, tensors = _layers(config), len(source.infos)
    if layers > tensors // _TENSORS_PER_LAYER + _SPARE:
        raise FileFormatError(
            f"{path}: its configuration describes a model of {layers} layers, but it holds {tensors} tensors, expected "
            f"at least {_TENSORS_PER_LAYER} for each layer."
        )
    if not any(map(is_table, names)):
        rows, stored = config.motion_max_seq_length, sum(i.numel * i.dtype.itemsize for i in source.infos.values())
        size = 4 * rows * sum(width * depth for width, depth in _motion(config))
        if size > 2 * stored + _SPARE_BYTES:
            raise FileFormatError(
                f"{path}: its configuration asks for position tables of {rows} rows, which it does not hold and which "
                f"would take {size} bytes, expected at most twice its own {stored}."
            )


def check_floats(source: TensorSource, keys: Iterable[str]) -> None:
    """Raise FileFormatError unless tensors hold floating-point numbers."""
    for key in keys:
        dtype = source.infos[key].dtype
        if not dtype.is_floating_point:
            raise FileFormatError(
                f"{source.path}: tensor {shorten(key)} is stored as {str(dtype).removeprefix('torch.')}, expected "
                "floating-point weights."
            )


def check_dimensions(path: str | Path, key: str, shape: tuple[int, ...], dimensions: int) -> None:
    """Raise FileFormatError unless a tensor has that many dimensions, none of them empty."""
    if len(shape) != dimensions or 0 in shape:
        raise FileFormatError(
            f"{path}: tensor {shorten(key)} has shape {list(shape)}, expected {dimensions} dimensions of at least 1."
        )


def _layers(config: UNetMotionConfig | MotionAdapterConfig) -> int:
    """Resnets, motion modules, and blocks of transformers of both kinds."""
    motion = sum(1 + depth for _, depth in _motion(config))
    if isinstance(config, MotionAdapterConfig):
        return motion
    plans = (*config.down_plans(), *config.up_plans())
    spatial = sum(plan.layers + sum(plan.depths) for plan in plans)
    return motion + spatial + config.mid_block_layers + sum(config.mid_depths())


def _motion(config: UNetMotionConfig | MotionAdapterConfig) -> list[tuple[int, int]]:
    """Width and depth of every motion module."""
    if isinstance(config, MotionAdapterConfig):
        blocks = [(width, depths) for width, _, depths in (*config.down_layers(), *config.up_layers())]
        mid = config.mid_depths()
    else:
        blocks = [(p.out_channels, p.motion_depths) for p in (*config.down_plans(), *config.up_plans())]
        mid = config.mid_motion_depths()
    return [(width, depth) for width, depths in (*blocks, (config.block_out_channels[-1], mid)) for depth in depths]
