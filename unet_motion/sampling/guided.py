"""One step's prediction for windows of a clip: options, text and guidance round the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..forward.options import ForwardOptions
from ..forward.text_keys import TextKeys
from ..forward.views import Views
from ..schedule.curve import product
from .step_cache.run import RunCache
from .step_cache.settings import KEPT, OFF, PLAIN
from .text import RunText
from .windowed import of_prompt, options_of, step_of

Options = ForwardOptions | Callable[[float], ForwardOptions]


class Half:
    """The prompts that one call of the network holds: both, or the last one alone.

    Args:
        text: of these prompts.
        numbers: which of the run's prompts they are.
        keeps_keys: whether keys of the text are kept from step to step.
    """

    def __init__(self, text: RunText, numbers: Sequence[int], keeps_keys: bool) -> None:
        self.text, self.numbers = text, tuple(numbers)
        self.keys = TextKeys() if keeps_keys else None


class Guided:
    """The prediction for windows, both conditions as one batch, mixed by the guidance scale.

    Args:
        text: of all prompts: one, or the negative one and the prompt.
        prompts: how many.
        frames: of the clip.
        guidance: a number, or curves.
        options: for each call, or a function of the share of the sampling.
        frames_at_once: see :class:`ForwardOptions`, or None.
        last: timestep of the most noise.
        dtype: of the network.
        step: what runs it, as `forward_frames`.
        parts: what runs it in two parts, (full, shallow) of :class:`StepParts`; read with ``cache``.
        cache: of the run, or None for all of each step.
        keeps_keys: whether keys of the text are kept from step to step.
    """

    def __init__(
        self, text: RunText, prompts: int, frames: int, guidance: Any, options: Options | None,
        frames_at_once: int | None, last: float, dtype: torch.dtype, step: Callable[..., Tensor],
        parts: tuple[Callable, Callable] | None = None, cache: RunCache | None = None, keeps_keys: bool = True,
    ) -> None:  # fmt: skip
        self.prompts, self.frames, self.guidance, self.frames_at_once = prompts, frames, guidance, frames_at_once
        self.options: Callable[[float], ForwardOptions]
        self.options = options if callable(options) else lambda share: options or ForwardOptions()
        self.last, self.dtype, self.step, self.parts, self.cache = last, dtype, step, parts, cache
        self.all = Half(text, range(prompts), keeps_keys)
        self.alone = self.all if prompts == 1 else Half(text.of_prompt(prompts - 1), [prompts - 1], keeps_keys)

    def __call__(
        self, x: Tensor, timestep: Tensor, windows: Sequence[Sequence[int]], views: Views | None = None
    ) -> Tensor:
        """The prediction, float32, for W windows of L frames x (W*L, C, h, w)."""
        predict = partial(self._predict, x, timestep, windows, views)
        if self.prompts == 1:
            return predict(self.all)
        now, key = PLAIN if self.cache is None else self.cache.now, _key(windows, views)
        scale = _scale(self.guidance, self.frames, self._share(timestep), windows, x)
        if self.cache is not None and now.guidance == OFF:
            self.cache.report.count("halves_off")
            return predict(self.alone)
        kept = self.cache.kept_difference(key) if self.cache is not None and now.guidance == KEPT else None
        if self.cache is not None and kept is not None:
            self.cache.report.count("halves_kept")
            return predict(self.alone) + (scale - 1) * kept
        without, with_prompt = predict(self.all).chunk(2)
        difference = with_prompt - without
        if self.cache is not None:
            self.cache.keep_difference(key, difference)
        return without + scale * difference

    def _predict(
        self, x: Tensor, timestep: Tensor, windows: Sequence[Sequence[int]], views: Views | None, half: Half
    ) -> Tensor:
        prompts = len(half.numbers)
        options = self.options(self._share(timestep))
        if prompts < self.prompts:
            options = of_prompt(options, self.prompts - 1, self.prompts)
        given = options_of(options, windows, self.frames, prompts)
        if given.text_keys is None and half.keys is not None:
            given = replace(given, text_keys=half.keys)
        if views is not None:
            given = replace(given, views=views)
        if self.frames_at_once is not None:
            given = replace(given, frames_at_once=self.frames_at_once)
        rows = torch.cat([x] * prompts).to(self.dtype)
        hidden, extra = half.text.rows(windows)
        call = {"num_frames": len(windows[0]), "options": given, **extra}
        inputs = (rows, timestep.to(x.device, torch.float32), hidden)
        if self.cache is None or self.parts is None:
            if self.cache is not None:
                self.cache.report.count("full")
            return self.step(*inputs, **call).float()
        full, shallow = self.parts
        keys = [(number, *_key(windows, views)) for number in half.numbers]
        run = partial(full, *inputs, **call), lambda deep: shallow(*inputs, deep=deep, **call)
        return self.cache.compute(keys, *run).float()

    def _share(self, timestep: Tensor) -> float:
        return 1 - float(timestep.reshape(-1)[0]) / self.last


def followed(
    cache: RunCache, model: Callable[[Tensor, Tensor], Tensor], timesteps: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """A model function that says to a cache in which step it is.

    Args:
        timesteps: (N,) of the run.
    """

    def told(x: Tensor, timestep: Tensor) -> Tensor:
        cache.go_to(step_of(timesteps, timestep))
        return model(x, timestep)

    return told


def _key(windows: Sequence[Sequence[int]], views: Views | None) -> tuple:
    """What the rows of one prompt are."""
    return tuple(map(tuple, windows)), views is not None


def _scale(guidance: Any, frames: int, share: float, windows: Sequence[Sequence[int]], like: Tensor) -> float | Tensor:
    """The guidance scale for the frames of windows: a number, or (rows, 1, 1, 1)."""
    if isinstance(guidance, float):
        return guidance
    values = product(guidance, frames, share)
    rows = values[[frame for window in windows for frame in window]]
    return rows.to(like.device, torch.float32).view(-1, 1, 1, 1)
