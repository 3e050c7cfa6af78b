"""The image encoder that AnimateLCM-I2V brings beside its motion modules (Wang et al., 2024,
https://arxiv.org/abs/2402.00769).

It turns the latent of the picture to animate into one feature map per resolution. What tells the frames apart is a
sinusoidal table that is added to the picture's first features; the further it is scaled up, the more the clip moves.
The maps are added before the second motion module of each block of the way down.
https://github.com/G-U-N/AnimateLCM (animatelcm_sd15/animatelcm/models/adapter.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.sinusoids import sinusoidal_table
from .layer_factory import LayerFactory

MOTION_SCALE = 0.8
"""The authors' choice; 0 gives the same features to all frames."""
LATENT_CHANNELS = 4
BLOCKS_PER_LEVEL = 2


class EncoderBlock(nn.Module):
    """Two convolutions with a residual around them; the first block of a level halves the size before."""

    def __init__(self, make: LayerFactory, channels_in: int, channels: int, halves: bool):
        super().__init__()
        self.halves = halves
        self.in_conv = None if channels_in == channels else make.conv(channels_in, channels, 1)
        self.block1 = make.conv(channels, channels, 3, padding=1)
        self.block2 = make.conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            # The authors repeat the last row and column of an odd size, which leaves the mean of the rest.
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        if self.in_conv is not None:
            x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class ImageEncoder(nn.Module):
    """Features of a picture's latent for every resolution of a UNet.

    Args:
        make: builds the layers.
        widths: channels of the resolutions.
    """

    def __init__(self, make: LayerFactory, widths: tuple[int, ...]):
        super().__init__()
        self.conv_in = make.conv(LATENT_CHANNELS, widths[0], 3, padding=1)
        self.width = widths[0]
        self.body = nn.ModuleList()
        before = widths[0]
        for level, width in enumerate(widths):
            for i in range(BLOCKS_PER_LEVEL):
                self.body.append(EncoderBlock(make, before if i == 0 else width, width, level > 0 and i == 0))
            before = width

    def forward(self, latents: Tensor, frames: int, motion_scale: float = MOTION_SCALE) -> tuple[Tensor, ...]:
        """One map (N*F, C, h, w) per resolution, in the latents' dtype.

        Args:
            latents: scaled latents of one picture per clip, (N, 4, H, W), or per frame, (N, 4, F, H, W).
            frames: F.
            motion_scale: of the table that tells the frames apart.
        """
        rows = latents if latents.dim() == 4 else latents.transpose(1, 2).flatten(0, 1)
        x = self.conv_in(rows.contiguous(memory_format=torch.channels_last))
        table = motion_scale * sinusoidal_table(frames, self.width, x.device).to(x.dtype)
        x = x.unflatten(0, (len(latents), -1)) + table[:, :, :, None, None]
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = []
        for i, block in enumerate(self.body, start=1):
            x = block(x)
            if i % BLOCKS_PER_LEVEL == 0:
                features.append(x)
        return tuple(features)


def image_features(
    encoder: ImageEncoder | None, inputs: Mapping[str, Any], batch: int, frames: int, sample: Tensor
) -> tuple[Tensor, ...]:
    """The maps (B*F, C, h, w) of a call with a picture.

    Args:
        inputs: ``added_cond_kwargs``: ``image_latents`` (1 or B, 4, H, W), or (1 or B, 4, F, H, W) with a picture per
            frame; ``image_motion_scale``, and ``image_strength``, which multiplies the maps.
        sample: the latents of the call, (B*F, C, H, W).

    Raises:
        ValueError: a picture for a model without an encoder, or of another shape.
    """
    latents = inputs["image_latents"]
    if encoder is None:
        raise ValueError("`image_latents` were given, but the model has no image encoder (`use_image_encoder`).")
    height, width = sample.shape[-2:]
    shape = tuple(latents.shape)
    # Sizes are compared by ==, not by `in`: under torch.compile they may be symbols.
    legal = [other for n in (1, batch) for other in ((n, 4, height, width), (n, 4, frames, height, width))]
    if not any(len(shape) == len(other) and _equal(shape, other) for other in legal):
        raise ValueError(
            f"`image_latents` have shape {tuple(latents.shape)}, expected ({batch}, 4, {height}, {width}), or "
            f"({batch}, 4, {frames}, {height}, {width}) with one picture per frame; 1 in place of {batch} is one for "
            "all clips."
        )
    scale, strength = inputs.get("image_motion_scale", MOTION_SCALE), inputs.get("image_strength", 1.0)
    maps = encoder(latents.to(sample), frames, scale)
    if strength != 1.0:
        maps = tuple(strength * x for x in maps)
    return maps if len(latents) == batch else tuple(x.repeat(batch, 1, 1, 1) for x in maps)


def _equal(sizes: Sequence[int], others: Sequence[int]) -> bool:
    return all(size == other for size, other in zip(sizes, others, strict=True))
