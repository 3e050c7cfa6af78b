"""How much memory the training of a LoRA takes, before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from ..config.unet import UNetMotionConfig
from .lora import LoraSettings

COPIES = 4
"""Of each number of the LoRA in float32: itself, its gradient, and two averages of AdamW."""
KEPT, KEPT_CHECKPOINTED = 60, 16
"""Numbers that a backward pass keeps for each position and channel of a resnet: 50 to 58 were measured on small UNets.
With checkpointing 7, and those of the one block that is computed again."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run takes: the frozen weights, the LoRA with its optimizer, and what the backward pass keeps."""

    weights: int
    lora: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.lora + self.activations

    def __str__(self) -> str:
        parts = (f"{_megabytes(getattr(self, name))} {what}" for name, what in _PARTS.items())
        return f"{_megabytes(self.total)} ({', '.join(parts)})"


_PARTS = {"weights": "weights", "lora": "LoRA and optimizer", "activations": "activations"}


def estimate_memory(
    unet: nn.Module, settings: LoraSettings, rows: int, size: tuple[int, int], dtype: torch.dtype, checkpointing: bool
) -> MemoryEstimate:
    """The memory of a run, give or take a half.

    Activations are `KEPT` numbers for every position and channel of every resnet: the layers around a resnet
    (attention, motion module) have its width, and what they keep is in proportion.

    Args:
        unet: on any device, "meta" too.
        rows: frames of a batch, of all its clips.
        size: height and width of the latents.
        dtype: that weights are held and computed in.
    """
    width = torch.finfo(dtype).bits // 8
    # Norms, biases and position tables stay in float32.
    weights = sum(t.numel() * (width if t.ndim > 1 else 4) for t in unet.state_dict().values())
    lora = 0
    for layers in settings.layers(unet).values():
        lora += settings.rank * sum(sum(cast(nn.Linear, layer).weight.shape) for layer in layers.values())
    kept = KEPT_CHECKPOINTED if checkpointing else KEPT
    positions = _positions(cast(UNetMotionConfig, unet.config), *size)
    return MemoryEstimate(weights, 4 * COPIES * lora, rows * kept * width * positions)


def _positions(config: UNetMotionConfig, height: int, width: int) -> int:
    """Positions times channels of all resnets, for one frame."""
    down, up, total = config.down_plans(), config.up_plans(), 0
    areas = [-(-height // 2**level) * -(-width // 2**level) for level in range(len(down))]
    for plans, order in ((down, areas), (up, areas[::-1])):
        total += sum(plan.layers * plan.out_channels * area for plan, area in zip(plans, order, strict=True))
    return total + 2 * down[-1].out_channels * areas[-1]


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MB"
