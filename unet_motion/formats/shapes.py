"""The parameters that a model of a given configuration has, without building their values."""

from __future__ import annotations

from ..config.adapter import MotionAdapterConfig
from ..config.unet import UNetMotionConfig
from ..files.checking import shapes_of
from ..model.motion_adapter import MotionAdapter
from ..model.unet_motion_model import UNetMotionModel


def unet_shapes(config: UNetMotionConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters and position tables of a ``UNetMotionModel``; do not change the result."""
    return shapes_of(UNetMotionModel, config)


def adapter_shapes(config: MotionAdapterConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters and position tables of a ``MotionAdapter``; do not change the result."""
    return shapes_of(MotionAdapter, config)
