"""Attention by a caller's own processor, which is written for diffusers' attention class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..forward.lora import LowRank


def over_pixels(
    processor: Callable[..., Tensor], attention: Any, tokens: Tensor, context: Tensor | None, mask: Tensor | None,
    images: bool,
) -> Tensor:  # fmt: skip
    """Spatial attention of tokens (R, L, C) over themselves or over a context (R, S, D).

    Raises:
        ValueError: the call has the images of an IP-Adapter.
    """
    if images:
        raise ValueError(
            f"attention processor {type(processor).__name__} knows nothing of the loaded IP-Adapter's images; "
            "choose a named processor or unload the IP-Adapter."
        )
    return processor(attention, tokens, encoder_hidden_states=context, attention_mask=mask)


def over_frames(
    processor: Callable[..., Tensor], attention: Any, tokens: Tensor, lora: LowRank | None,
    scale: float | Tensor | None,
) -> Tensor:  # fmt: skip
    """Attention over the frames of each pixel: tokens (B, F, P, C).

    Raises:
        ValueError: the call scales the keys, or has a LoRA of these layers.
    """
    if scale is not None:
        raise ValueError(
            f"attention processor {type(processor).__name__} knows nothing of the scale of `motion_amounts`; "
            "choose a named processor."
        )
    if lora is not None and lora.of(attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
        raise ValueError(
            f"attention processor {type(processor).__name__} knows nothing of motion LoRAs in `motion_loras`; "
            "choose a named processor or use `apply_motion_lora`."
        )
    b, f, p, c = tokens.shape
    sequences = tokens.transpose(1, 2).reshape(b * p, f, c)
    out = processor(attention, sequences, encoder_hidden_states=None, attention_mask=None)
    return out.reshape(b, p, f, c).transpose(1, 2)
