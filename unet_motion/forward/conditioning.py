"""The optional inputs of a call, and what only some models and hosts give: vectors beside the text, residuals."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config.unet import UNetMotionConfig
from ..ops.sinusoids import timestep_sinusoid
from .entry import check_rows


class Conditioning(NamedTuple):
    """The optional inputs of the model's ``forward``, in its order."""

    timestep_cond: Tensor | None = None
    attention_mask: Tensor | None = None
    cross_attention_kwargs: dict[str, Any] | None = None
    added_cond_kwargs: dict[str, Any] | None = None
    down_block_additional_residuals: tuple[Tensor, ...] | None = None
    mid_block_additional_residual: Tensor | None = None


def text_time_vector(
    inputs: dict[str, Any] | None, config: UNetMotionConfig, batch: int, frames: int, sample: Tensor
) -> Tensor:
    """The vector of `text_time` conditioning, (B or B*F, projection_class_embeddings_input_dim).

    It is ``vector`` if given, else ``text_embeds`` beside the sinusoids of ``time_ids``.
    """
    inputs = inputs or {}
    if inputs.get("vector") is not None:
        vector = inputs["vector"].to(sample.dtype)
    else:
        for name in ("text_embeds", "time_ids"):
            if inputs.get(name) is None:
                raise ValueError(
                    "the model has `addition_embed_type` 'text_time', which requires the keyword argument "
                    f"`{name}` to be passed in `added_cond_kwargs`."
                )
        ids = inputs["time_ids"]
        width = config.addition_time_embed_dim
        assert width is not None  # the configuration checks it where there is "text_time"
        sinusoids = timestep_sinusoid(ids.flatten(), width)
        vector = torch.cat([inputs["text_embeds"], sinusoids.reshape(ids.shape[0], -1).to(sample.dtype)], dim=-1)
        vector = vector.to(sample.dtype)
    if vector.shape[0] != 1:
        check_rows("added_cond_kwargs", vector.shape[0], batch, frames)
    if vector.shape[-1] != config.projection_class_embeddings_input_dim:
        raise ValueError(
            f"`added_cond_kwargs` give a vector of {vector.shape[-1]} numbers, expected "
            f"`projection_class_embeddings_input_dim` {config.projection_class_embeddings_input_dim}."
        )
    return vector


def residual_for(target: Tensor, residual: Tensor, name: str) -> Tensor:
    """A residual that broadcasts to ``target``.

    Raises:
        ValueError: a shape that does not broadcast.
    """
    try:
        fits = torch.broadcast_shapes(target.shape, residual.shape) == target.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"`{name}` has shape {tuple(residual.shape)}, expected {tuple(target.shape)}.")
    return residual
