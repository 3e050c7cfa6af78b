"""What a timeline says of a clip, as the arguments of a pipeline's call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..forward.motion_amount import MotionAmount
from ..forward.options import ForwardOptions
from ..schedule import Curve, Timeline
from ..schedule.curve import product
from ..values import quoted

Options = ForwardOptions | Callable[[float], ForwardOptions]


def timeline_arguments(
    timeline: Timeline, frames: int, negative_prompt: Any = "", guidance: Any = 3.0, options: Options | None = None
) -> dict[str, Any]:
    """The ``prompt``, ``negative_prompt``, ``guidance`` and ``options`` of a call of `MotionPipeline` for a timeline.

    They are what the settings by themselves are: the prompts as schedules, the curve ``cfg`` as guidance, the curves
    ``scale`` and ``effect`` as one more :class:`MotionAmount`. The curve ``strength`` is for what a call does not have.

    Args:
        timeline: prompts and curves; what stands behind ``--neg`` is the negative prompt.
        frames: of the clip.
        negative_prompt, guidance: where the timeline has none.
        options: to which the amounts are added; a function gives those of a share of the sampling.

    Raises:
        ValueError: keys outside of the clip, or two negative prompts.
    """
    timeline.check(frames)
    prompt, negative = timeline.prompts.split_negative()
    if negative.texts == ("",):
        negative = negative_prompt
    elif negative_prompt not in ("", None):
        found = f"the negative prompt is {quoted(negative_prompt)}"
        raise ValueError(f"{found}, but the timeline has its own, expected one of both")
    return {
        "prompt": prompt,
        "negative_prompt": negative,
        "guidance": timeline.curves.get("cfg", guidance),
        "options": _with_amounts(timeline.curves.get("scale"), timeline.curves.get("effect"), frames, options),
    }


def _with_amounts(scale: Curve | None, effect: Curve | None, frames: int, options: Options | None) -> Options | None:
    given = [curve for curve in (scale, effect) if curve is not None]
    if not given:
        return options

    def of_share(share: float) -> ForwardOptions:
        before = options(share) if callable(options) else options or ForwardOptions()
        over = [1.0 if curve is None else product([curve], frames, share).float() for curve in (scale, effect)]
        return replace(before, motion_amounts=[*before.motion_amounts, MotionAmount(scale=over[0], effect=over[1])])

    is_same = not callable(options) and all(curve.over == "frames" for curve in given)
    return of_share(0.0) if is_same else of_share
