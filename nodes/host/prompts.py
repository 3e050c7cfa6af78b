"""Prompts over frames as core's CONDITIONING: a row of text for each frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...unet_motion.schedule import PromptSchedule, mix_tokens, mix_vectors

POOLED = "pooled_output"


def scheduled_conditioning(clip: Any, schedule: PromptSchedule, frames: int) -> list:
    """Each distinct text encoded once, and mixed for each frame: text (F, L, D), pooled text (F, P).

    One text for all frames is what core's own node gives, one row.

    Args:
        clip: ComfyUI's CLIP; the LoRA hooks and the schedules that it carries stay.

    Raises:
        ValueError: keys that the clip has no frames for, or texts whose hooks do not fit together.
    """
    try:
        schedule.shares(frames)  # before the encoder is loaded
    except ValueError as error:
        raise ValueError(f"`text`: {error}.") from None
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in schedule.texts]
    if len(encoded) == 1:
        return encoded[0]
    if len({len(entries) for entries in encoded}) != 1:
        raise ValueError("`clip` has hooks that give the prompts different ranges of steps, expected the same for all.")
    return [_mixed(schedule, entries, frames) for entries in zip(*encoded, strict=True)]


def _mixed(schedule: PromptSchedule, entries: tuple, frames: int) -> list:
    """One entry of a conditioning from those of all texts."""
    options = dict(entries[0][1])
    pooled = [entry[1].get(POOLED) for entry in entries]
    if all(isinstance(vector, Tensor) for vector in pooled):
        options[POOLED] = mix_vectors(schedule, [vector[0] for vector in pooled], frames)
    return [mix_tokens(schedule, [entry[0][0] for entry in entries], frames), options]
