"""The adapter that holds the motion modules of a UNet without the UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.adapter import MotionAdapterConfig
from ..files.pretrained import from_pretrained, save_pretrained
from .image_encoder import ImageEncoder
from .layer_factory import LayerFactory, make_factory
from .motion_module import MotionModule


class MotionModules(nn.Module):
    """The motion modules of one block of an adapter."""

    def __init__(
        self, make: LayerFactory, channels: int, heads: tuple[int, ...], depths: tuple[int, ...], groups: int,
        max_seq_length: int,
    ):  # fmt: skip
        super().__init__()
        self.motion_modules = nn.ModuleList(
            MotionModule(make, channels, h, depth, groups, max_seq_length)
            for h, depth in zip(heads, depths, strict=True)
        )


class MotionAdapter(nn.Module):
    """The motion modules of a UNet without the UNet, with diffusers' constructor and parameter names.

    Args:
        config: keyword arguments of :class:`MotionAdapterConfig`, positional in the same order.
        operations, weights, dtype, device: as for :class:`unet_motion.UNetMotionModel`.
    """

    config_class = MotionAdapterConfig
    silent = True

    def __init__(self, *args: Any, operations=None, weights=None, dtype=None, device=None, **kwargs: Any):
        super().__init__()
        self.config = config = MotionAdapterConfig(*args, **kwargs)
        make = make_factory(operations, weights, dtype, device, self.silent)
        groups, length = config.motion_norm_num_groups, config.motion_max_seq_length
        width = config.block_out_channels[0]
        self.conv_in = make.conv(config.conv_in_channels, width, 3, padding=1) if config.conv_in_channels else None
        self.img_encoder = ImageEncoder(make, config.block_out_channels) if config.use_image_encoder else None
        self.down_blocks = nn.ModuleList(MotionModules(make, *layer, groups, length) for layer in config.down_layers())
        self.mid_block = None
        if config.use_motion_mid_block:
            depths = config.mid_depths()
            heads = (config.mid_heads(),) * len(depths)
            self.mid_block = MotionModules(make, config.block_out_channels[-1], heads, depths, groups, length)
        self.up_blocks = nn.ModuleList(MotionModules(make, *layer, groups, length) for layer in config.up_layers())

    def forward(self, sample: Any = None) -> None:
        """An adapter only holds weights: nothing happens."""

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @classmethod
    def from_config(cls, config: MotionAdapterConfig | dict, **kwargs: Any) -> MotionAdapter:
        """Build from a configuration object or dictionary."""
        found = MotionAdapterConfig.from_dict(config) if isinstance(config, dict) else config
        return cls(**{name: found[name] for name in found.field_names()}, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> MotionAdapter:
        """Read a folder written by :meth:`save_pretrained` or by diffusers."""
        return from_pretrained(cls, pretrained_model_name_or_path, **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write ``config.json`` and safetensors weights that diffusers reads too."""
        save_pretrained(self, save_directory, **kwargs)
