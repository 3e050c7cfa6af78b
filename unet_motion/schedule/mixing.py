"""What a text encoder gave for several prompts, mixed frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .prompts import PromptSchedule, common_length

PARALLEL = 0.9995
"""Cosine from which on two vectors count as one direction, where a circle through them is not defined well."""


def mix_tokens(schedule: PromptSchedule, encoded: Sequence[Tensor], frames: int) -> Tensor:
    """The text of each frame, (F, L, D), of the encoded texts (L_i, D) of a schedule in the order of its ``texts``.

    Texts of unequal length are repeated whole, see :func:`unet_motion.schedule.prompts.common_length`.
    """
    length = common_length([len(tokens) for tokens in encoded])
    return mix_vectors(schedule, [tokens.repeat(length // len(tokens), 1) for tokens in encoded], frames)


def mix_vectors(schedule: PromptSchedule, encoded: Sequence[Tensor], frames: int) -> Tensor:
    """The vectors of each frame, (F, ..., D), of those of each text, (..., D); computed in float64.

    Raises:
        ValueError: see :meth:`PromptSchedule.shares`.
    """
    mix = _slerp if schedule.interpolation == "slerp" else _lerp
    shares = schedule.shares(frames)
    out = encoded[0].new_empty(frames, *encoded[0].shape)
    for frame, (first, second, share) in enumerate(shares):
        if share == 0 or first == second:
            out[frame] = encoded[first]
        else:
            out[frame] = mix(encoded[first].double(), encoded[second].double(), share)
    return out


def _lerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    return a + share * (b - a)


def _slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    lengths = a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(dim=-1, keepdim=True) / lengths.clamp_min(1e-30)
    turns = (lengths > 0) & (cosine.abs() < PARALLEL)
    angle = torch.where(turns, cosine, 0.0).acos()
    arc = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return torch.where(turns, arc, _lerp(a, b, share))
