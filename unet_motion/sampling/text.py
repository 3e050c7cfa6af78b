"""The text of a run: one prompt for a clip, or another for each of its frames."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..schedule import PromptSchedule, mix_tokens, mix_vectors
from ..schedule.prompts import common_length
from ..values import quoted

Prompt = str | PromptSchedule
Encode = Callable[[list[str]], tuple[Tensor, Tensor | None]]
"""Prompts -> hidden states (N, T, D), pooled text (N, P) or None."""


def checked_texts(prompt: Any, negative_prompt: Any) -> tuple[Prompt, Prompt]:
    """The two texts of a clip; a negative one of None is an empty one, as in diffusers' pipelines.

    Raises:
        ValueError: something else than text or a schedule of it.
    """
    texts = {"prompt": prompt, "negative_prompt": "" if negative_prompt is None else negative_prompt}
    for name, text in texts.items():
        if not isinstance(text, Prompt):
            raise ValueError(
                f"`{name}` is {quoted(text)}, expected text or a PromptSchedule, or a list of them as `prompt`."
            )
    return texts["prompt"], texts["negative_prompt"]


class RunText:
    """What a model call takes as text for windows of a clip.

    Args:
        prompts: of a clip; their rows come one after the other.
        encode: the text encoder. Where a prompt is a schedule, each distinct text is encoded once and by itself, so
            that none is padded to another's length.
        frames: of the clip.
        added_cond: see :class:`unet_motion.MotionPipeline`.

    Raises:
        ValueError: see :meth:`PromptSchedule.shares`.
    """

    def __init__(
        self, prompts: Sequence[Prompt], encode: Encode, frames: int,
        added_cond: Callable[[Tensor | None, int], dict[str, Tensor]] | None,
    ):  # fmt: skip
        self.added_cond = added_cond
        self.per_frame = any(isinstance(prompt, PromptSchedule) for prompt in prompts)
        if self.per_frame:
            self._hidden, self._pooled = _of_frames(prompts, encode, frames)
        else:
            self._hidden, self._pooled = encode([prompt for prompt in prompts if isinstance(prompt, str)])
        # Kept, since what is computed from a text is kept for the object.
        self._rows = lru_cache(maxsize=4)(self._rows_of)

    def rows(self, windows: Sequence[Sequence[int]]) -> tuple[Tensor, dict[str, Any]]:
        """Hidden states (R, T, D) for windows and what else the model takes by name.

        R is prompts * windows, and where the text differs between frames prompts * windows * their frames.
        """
        return self._rows(tuple(map(tuple, windows)) if self.per_frame else len(windows))

    def of_prompt(self, number: int) -> RunText:
        """The text of one of the prompts."""
        one = copy.copy(self)
        one._hidden = self._hidden[number : number + 1]
        one._pooled = None if self._pooled is None else self._pooled[number : number + 1]
        one._rows = lru_cache(maxsize=4)(one._rows_of)
        return one

    def _rows_of(self, key: int | tuple[tuple[int, ...], ...]) -> tuple[Tensor, dict[str, Any]]:
        def cut(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            if isinstance(key, int):
                return values.repeat_interleave(key, 0)
            places = torch.tensor([frame for window in key for frame in window], device=values.device)
            return values[:, places].flatten(0, 1)

        hidden = cut(self._hidden)
        assert hidden is not None
        if self.added_cond is None:
            return hidden, {}
        return hidden, {"added_cond_kwargs": self.added_cond(cut(self._pooled), len(hidden))}


def _of_frames(prompts: Sequence[Prompt], encode: Encode, frames: int) -> tuple[Tensor, Tensor | None]:
    """(prompts, F, T, D) and (prompts, F, P)."""
    schedules = [p if isinstance(p, PromptSchedule) else PromptSchedule.constant(p) for p in prompts]
    for schedule in schedules:
        schedule.shares(frames)
    encoded = {text: encode([text]) for text in dict.fromkeys(t for s in schedules for t in s.texts)}
    mixed = [mix_tokens(s, [encoded[text][0][0] for text in s.texts], frames) for s in schedules]
    length = common_length([tokens.shape[1] for tokens in mixed])
    hidden = torch.stack([tokens.repeat(1, length // tokens.shape[1], 1) for tokens in mixed])
    if any(pooled is None for _, pooled in encoded.values()):
        return hidden, None
    vectors = {text: pooled[0] for text, (_, pooled) in encoded.items() if pooled is not None}
    return hidden, torch.stack([mix_vectors(s, [vectors[text] for text in s.texts], frames) for s in schedules])
