"""One motion UNet with the same random weights, of this project and of diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config.unet import UNetMotionConfig
from ..model.unet_motion_model import UNetMotionModel
from ..ops.sinusoids import sinusoidal_table

WIDTHS = {"small": (128, 256, 512, 512), "sd15": (320, 640, 1280, 1280)}
TEXT_TOKENS = 77
TEXT_WIDTH = 768

POOL = 1 << 24
"""Random numbers of which all weights are made; few tensors have more, and those repeat them."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one step: sample (B, C, F, H, W), timestep, text (B, 77, D)."""

    sample: Tensor
    timestep: Tensor
    text: Tensor

    @property
    def frames(self) -> int:
        return self.sample.shape[2]


def text_width_of(config: UNetMotionConfig) -> int:
    """Channels of the text that a network reads; those measured here have one number for all blocks."""
    width = config.cross_attention_dim
    assert isinstance(width, int)
    return width


def make_inputs(
    batch: int, frames: int, side: int, text_width: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    """Random inputs, always the same ones."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 4, frames, side, side, generator=generator)
    text = torch.randn(batch, TEXT_TOKENS, text_width, generator=generator)
    return Inputs(sample.to(device, dtype), torch.tensor(481, device=device), text.to(device, dtype))


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights that keep activations near 1, so that rounding errors can be seen.

    They are pieces of one pool: a billion numbers, each drawn by itself, take longer than a step.
    """
    pool, start = torch.randn(POOL, generator=torch.Generator().manual_seed(seed)), 0
    pool = pool.to(next(module.parameters()).device)
    for name, parameter in module.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.2
        for piece in parameter.data.view(-1).split(POOL):
            start = 0 if start + len(piece) > POOL else start
            torch.mul(pool[start : start + len(piece)], scale, out=piece)
            start += len(piece) + 1
        if parameter.dim() == 1:
            parameter.data.add_(1 if name.endswith("weight") else 0)
    for name, buffer in module.named_buffers():
        if name.endswith(".pe"):
            buffer.copy_(sinusoidal_table(buffer.shape[1], buffer.shape[2]))


def our_unet(size: str, device: torch.device, dtype: torch.dtype, **config) -> UNetMotionModel:
    """A network of one of WIDTHS with random weights, and with other values of its configuration where given."""
    # Starting values would take as long as the random ones that replace them.
    unet = UNetMotionModel(block_out_channels=WIDTHS[size], cross_attention_dim=TEXT_WIDTH, device="meta", **config)
    randomise(unet.to(dtype).to_empty(device="cpu"))
    unet.to(device).eval().requires_grad_(False)
    unet.arrange_weights()
    return unet


def their_unet(ours: UNetMotionModel, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' network with the same weights, which it shares."""
    from diffusers import UNetMotionModel as DiffusersUNetMotionModel

    with torch.device("meta"):
        unet = DiffusersUNetMotionModel(
            block_out_channels=ours.config.block_out_channels, cross_attention_dim=ours.config.cross_attention_dim
        )
    unet.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return cast(Any, unet).to(device, dtype).eval().requires_grad_(False)


@lru_cache(maxsize=1)
def both_unets(size: str, device: torch.device, dtype: torch.dtype) -> tuple[UNetMotionModel, Any]:
    """Ours and theirs, the same ones as in the last call if that was for the same: leave them as they were."""
    ours = our_unet(size, device, dtype)
    return ours, their_unet(ours, device, dtype)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    difference = (result.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()
