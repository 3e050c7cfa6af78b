"""Checks and brings into one form what conditions a call: timesteps, text, masks, vectors and residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config.unet import UNetMotionConfig
from ..ops.sinusoids import timestep_sinusoid


class Conditioning(NamedTuple):
    """The optional inputs of the model's ``forward``, in its order."""

    timestep_cond: Tensor | None = None
    attention_mask: Tensor | None = None
    cross_attention_kwargs: dict[str, Any] | None = None
    added_cond_kwargs: dict[str, Any] | None = None
    down_block_additional_residuals: tuple[Tensor, ...] | None = None
    mid_block_additional_residual: Tensor | None = None


def expand_timestep(
    timestep: Tensor | float | int | Sequence[float], batch: int, frames: int, device: torch.device
) -> Tensor:
    """A timestep as a tensor of 1, B or B*F numbers.

    Raises:
        ValueError: another number of timesteps.
    """
    if isinstance(timestep, (list, tuple)):
        timestep = torch.tensor(timestep)
    elif not isinstance(timestep, Tensor):
        timestep = torch.tensor(timestep, dtype=torch.float64 if isinstance(timestep, float) else torch.int64)
    timestep = timestep.reshape(-1).to(device)
    count = timestep.shape[0]
    # Not `in`: where sizes are symbols, as under torch.compile, it asks whether they are the same symbol.
    if count != 1 and count != batch and count != batch * frames:
        raise ValueError(
            f"`timestep` holds {count} numbers, expected 1, {batch} (one per clip) or {batch * frames} (one per frame)."
        )
    return timestep


def check_rows(name: str, rows: int, batch: int, frames: int) -> None:
    """Raise ValueError unless ``rows`` is one per clip or one per frame."""
    if rows != batch and rows != batch * frames:
        raise ValueError(
            f"`{name}` has {rows} rows, expected {batch} (one per clip) or {batch * frames} (one per frame)."
        )


def build_text(
    text: Tensor | None, mask: Tensor | None, batch: int, frames: int, dtype: torch.dtype, widths: set[int]
) -> tuple[Tensor | None, Tensor | None]:
    """encoder_hidden_states (B or B*F, L, D), checked, and its mask as an additive one (rows, 1, 1, L).

    The mask (B or B*F, L) keeps a token where it is 1 or True. Both come back with the same rows: per clip, or per
    frame where one of the two is given per frame.
    """
    if text is not None:
        if text.dim() != 3:
            raise ValueError(f"`encoder_hidden_states` has shape {tuple(text.shape)}, expected (rows, tokens, width).")
        if widths - {text.shape[-1]}:
            expected = ", ".join(map(str, sorted(widths)))
            raise ValueError(
                f"`encoder_hidden_states` has width {text.shape[-1]}, the model reads text of width {expected} "
                "(`cross_attention_dim`)."
            )
        check_rows("encoder_hidden_states", text.shape[0], batch, frames)
    if mask is None:
        return text, None
    if text is None:
        raise ValueError("`attention_mask` was given without `encoder_hidden_states`.")
    if mask.dim() != 2 or mask.shape[1] != text.shape[1]:
        raise ValueError(f"`attention_mask` has shape {tuple(mask.shape)}, expected (rows, {text.shape[1]} tokens).")
    check_rows("attention_mask", mask.shape[0], batch, frames)
    rows = max(text.shape[0], mask.shape[0])
    text, mask = (t.repeat_interleave(rows // t.shape[0], dim=0) if t.shape[0] < rows else t for t in (text, mask))
    return text, ((1 - mask.to(dtype)) * -10000.0)[:, None, None, :]


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
