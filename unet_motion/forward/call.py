"""The state that travels with one forward call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.attention.processors import DEFAULT_PROCESSOR
from .freeu import FreeU
from .hooks import Hooks
from .lora import LowRank
from .processor_plan import ProcessorPlan
from .text_keys import TextKeys


@dataclass(eq=False)
class Call:
    """Everything that the layers of one forward call share. Rows are clips (B) or frames (B*F).

    Attributes:
        batch, frames: B and F.
        temb: activated time embedding, (B or B*F, 4 * C0).
        text: encoder_hidden_states, (B or B*F, L, D), or None.
        text_mask: additive mask on the text, (B or B*F, 1, 1, L), or None.
        images: per IP-Adapter the projected image tokens, (B or B*F, n_images, T, D).
        image_masks: per IP-Adapter a mask (1 or B, n_images, H, W), or None.
        pictures: the image encoder's map (B*F, C, h, w) for each down block, or None.
        low_rank: what motion LoRAs add in this call, or None.
        time_added: what each resnet adds of the time embedding, (B or B*F, C), or None where it computes that itself.
    """

    batch: int
    frames: int
    temb: Tensor
    text: Tensor | None = None
    text_mask: Tensor | None = None
    images: list[Tensor] | None = None
    image_masks: list[Tensor] | None = None
    pictures: tuple[Tensor, ...] | None = None
    resnet_norm_scope: str = "frame"
    motion_norm_scope: str = "clip"
    freeu: FreeU | None = None
    chunking: tuple[int, int] | None = None
    fused: bool = False
    positions: Tensor | None = None
    plan: ProcessorPlan | None = None
    hooks: Hooks | None = None
    low_rank: LowRank | None = None
    text_keys: TextKeys | None = None
    checkpointing: bool = False
    time_added: dict[nn.Module, Tensor] | None = None

    def processor(self, attention) -> Any:
        """The processor of an attention layer in this call."""
        chosen = self.plan.lookup(attention.path) if self.plan is not None else None
        default = getattr(attention.processor, "kernel", attention.processor)
        return chosen or default or DEFAULT_PROCESSOR

    def run(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Call ``function``, without keeping its activations where gradient checkpointing is on."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)
