"""What a pipeline is called with, by type and range, before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from ..files.errors import shorten
from ..forward.options import ForwardOptions
from ..schedule.curve import Curve, product
from ..values import quoted
from .free_init import FreeInit
from .noise import NoiseMix, check_noise, seeded_generator
from .ranks import Ranks
from .window_parts import WindowPart

MOST_GUIDANCE = 100


def whole(name: str, number: Any) -> int:
    """The number as an int; a ValueError unless it is a whole one."""
    try:
        if isinstance(number, bool):
            raise TypeError
        return operator.index(number)
    except TypeError:
        raise ValueError(f"{name} is {_words(number)}, expected a whole number") from None


def check_kinds(noise: Any, options: Any) -> None:
    """Raise ValueError for noise or options of another type."""
    if not isinstance(noise, (str, NoiseMix)) and not callable(noise):
        raise ValueError(f"`noise` is {_words(noise)}, expected a kind of noise or a NoiseMix.")
    if isinstance(noise, str):
        check_noise(noise)
    if options is not None and not isinstance(options, ForwardOptions) and not callable(options):
        raise ValueError(f"`options` is {_words(options)}, expected ForwardOptions or a function that gives them.")


def check_ranks(ranks: Any, parts: Sequence[WindowPart]) -> None:
    """Raise ValueError for ranks that have no windows to share, or for something else than ranks."""
    if ranks is None:
        return
    if not isinstance(ranks, Ranks):
        raise ValueError(f"`ranks` is {_words(ranks)}, expected Ranks.")
    if all(part.views for part in parts):
        found = "windows inside the motion modules, which are one call" if parts else "no `windows`"
        raise ValueError(f"`ranks` share the windows of a step, but there are {found}: expected ContextWindows.")


def checked_guidance(guidance: Any, frames: int) -> float | Sequence[Curve]:
    """The scale as a number, or as curves whose values are multiplied.

    Raises:
        ValueError: neither, numbers out of range, or keys that a clip of so many frames does not have.
    """
    if isinstance(guidance, Real) and not isinstance(guidance, bool):
        if not 0 <= float(guidance) <= MOST_GUIDANCE:
            raise ValueError(f"guidance is {guidance}, expected 0 to {MOST_GUIDANCE}")
        return float(guidance)
    curves = [guidance] if isinstance(guidance, Curve) else guidance
    if not isinstance(curves, (list, tuple)) or not curves or not all(isinstance(curve, Curve) for curve in curves):
        raise ValueError(f"guidance is {_words(guidance)}, expected a number or curves")
    for key in (key for curve in curves for key in curve.keys):
        if not 0 <= key.value <= MOST_GUIDANCE:
            raise ValueError(f"guidance: the value at {key.at} is {key.value}, expected 0 to {MOST_GUIDANCE}")
    try:
        product(curves, frames, 0.0)
    except ValueError as error:
        found = str(error)
        raise ValueError(found if found.startswith("`guidance`") else f"guidance: {found}") from None
    return curves


def checked_runs(free_init: Any, steps: int, seed: Any, steps_of: Callable[[int], Any]) -> FreeInit:
    """The runs of the sampler: one where no FreeInit is given.

    Args:
        steps_of: the noise levels of so many steps.

    Raises:
        ValueError: something else than a FreeInit, a number of steps that the schedule does not have, or a seed out of
            range.
    """
    runs = FreeInit(iterations=1) if free_init is None else free_init
    if not isinstance(runs, FreeInit):
        raise ValueError(f"`free_init` is {quoted(free_init)}, expected a FreeInit such as FreeInit(iterations=3).")
    for run in {0, runs.iterations - 1}:
        steps_of(runs.steps(run, steps))
    seeded_generator(seed)
    return runs


def _words(found: Any) -> str:
    return shorten(repr(found)) if isinstance(found, (str, list, Real, type(None))) else f"a {type(found).__name__}"
