"""The names that the field has for a pipeline's arguments, beside this project's short ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..values import quoted
from .step_cache import StepReport

NAMES = {"num_frames": "frames", "num_inference_steps": "steps", "guidance_scale": "guidance"}
OTHERS = ("generator", "latents")


def takes_field_names(call: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A pipeline's call that also takes diffusers' names, several prompts, and noise from outside.

    ``num_frames``, ``num_inference_steps`` and ``guidance_scale`` are other names of arguments that are there.
    ``generator`` draws the first noise as diffusers draws it, so that the same generator gives the same clip there and
    here; ``latents`` (1, C, F, h, w) are that noise. A list of prompts gives (prompts, frames, height, width, 3): the
    clips are drawn one after the other, with lists of negative prompts and generators if they are given, and with seeds
    that count up.
    """
    plain = inspect.signature(call)

    @wraps(call)
    def named(self: Any, *args: Any, generator: Any = None, latents: Tensor | None = None, **kwargs: Any) -> np.ndarray:
        for theirs, ours in NAMES.items():
            if theirs in kwargs and ours in kwargs:
                raise ValueError(f"`{theirs}` and `{ours}` are two names of one argument, expected one of them.")
            if theirs in kwargs:
                kwargs[ours] = kwargs.pop(theirs)
        self.skipped = None
        values = plain.bind(self, *args, **kwargs).arguments
        values.pop("self")
        if generator is not None and "seed" in values:
            raise ValueError("`seed` and `generator` both say which noise there is, expected one of them.")
        size = getattr(self.unet.config, "sample_size", None)
        if isinstance(size, int):
            for side in ("width", "height"):
                values.setdefault(side, size * self.pixels_per_latent)
        if not isinstance(values["prompt"], (list, tuple)):
            return call(self, **values, **_noise(values, generator, latents))
        clips, self.skipped = _clips(lambda **one: (call(self, **one), self.skipped), values, generator, latents)
        return clips

    own = [p for p in plain.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in (*NAMES, *OTHERS)]
    named.__signature__ = plain.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return named


def _clips(
    call: Callable[..., tuple[np.ndarray, StepReport | None]], values: dict[str, Any], generator: Any, latents: Any
) -> tuple[np.ndarray, StepReport | None]:
    """A clip for each prompt of a list, and what their step caches left out."""
    prompts = values.pop("prompt")
    if not prompts:
        raise ValueError("`prompt` is an empty list, expected at least one prompt.")
    negative, seed = values.pop("negative_prompt", ""), values.pop("seed", 0)
    if not isinstance(seed, int):
        raise ValueError(f"`seed` is {quoted(seed)}, expected a whole number, which counts up with the prompts.")
    negatives = _of_each("negative_prompt", negative, len(prompts))
    generators = _of_each("generator", generator, len(prompts))
    if latents is not None and len(latents) != len(prompts):
        raise ValueError(f"`latents` have shape {tuple(latents.shape)}, expected {len(prompts)} in front.")
    clips, reports = [], []
    for i, prompt in enumerate(prompts):
        one = {**values, "prompt": prompt, "negative_prompt": negatives[i], "seed": seed + i}
        clip, report = call(**one, **_noise(one, generators[i], None if latents is None else latents[i : i + 1]))
        clips.append(clip)
        reports.append(report)
    said = [report for report in reports if report is not None]
    return np.stack(clips), StepReport.of(said) if said else None


def _of_each(name: str, given: Any, count: int) -> Sequence[Any]:
    if not isinstance(given, (list, tuple)):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"`{name}` holds {len(given)}, expected {count}, one for each prompt.")
    return given


def _noise(values: dict[str, Any], generator: Any, latents: Tensor | None) -> dict[str, Any]:
    """The arguments `noise` and `seed` for noise from outside; none where there is none."""
    if generator is None and latents is None:
        return {}
    for name in ("noise", "free_init"):
        if values.get(name, "default") not in ("default", None):
            raise ValueError(f"`{name}` draws noise of its own, expected it without `generator` and `latents`.")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise ValueError(f"`generator` is a {type(generator).__name__}, expected a torch.Generator.")
        values["seed"] = generator.initial_seed() % 2**64
    values.pop("noise", None)
    return {"noise": _Given(generator, latents)}


class _Given:
    """The first noise of a clip (F, C, h, w), from diffusers' layout (1, C, F, h, w)."""

    def __init__(self, generator: torch.Generator | None, latents: Tensor | None):
        self.generator, self.latents = generator, latents

    def __call__(self, shape: tuple[int, int, int, int]) -> Tensor:
        f, c, h, w = shape
        noise = self.latents
        if noise is None:
            assert self.generator is not None
            noise = torch.randn(1, c, f, h, w, generator=self.generator, device=self.generator.device)
        if tuple(noise.shape) != (1, c, f, h, w):
            raise ValueError(f"`latents` have shape {tuple(noise.shape)}, expected {(1, c, f, h, w)}.")
        return noise[0].transpose(0, 1).float()
