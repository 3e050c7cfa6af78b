"""ControlNets, T2I-Adapters and ControlLoras whose strength changes over the frames and over the steps."""

from __future__ import annotations

import functools
from typing import Any

from comfy.controlnet import StrengthType
from torch import Tensor

from .settings import clip_frames
from .varying import LAST_TIMESTEP, Varying, at_step, frame_indices

CONTROL = "control"


class _OverTime:
    """What a control of ComfyUI does beside its own: multiply what it gives by a number for each frame.

    Attributes:
        over_time: the numbers.
        sampling: the MODEL's, which says where in the sampling a noise level lies.
        factors: (rows, 1, 1, 1) of the call that runs.
    """

    over_time: Varying
    sampling: Any = None
    factors: Tensor | None = None

    def pre_run(self, model: Any, *more: Any, **named: Any) -> Any:
        self.sampling = model.model_sampling
        return super().pre_run(model, *more, **named)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options=None):
        options = {} if transformer_options is None else transformer_options
        frames = clip_frames(x_noisy, options)
        indices, total = frame_indices(x_noisy, frames, options)
        values = self.over_time.over_frames(indices, total).repeat(len(x_noisy) // len(indices)).to(x_noisy.device)
        timestep = self.sampling.timestep(t.flatten()[:1]).float().clamp(0, LAST_TIMESTEP)
        self.factors = at_step(values, self.over_time.step_pieces(x_noisy.device), timestep).view(-1, 1, 1, 1)
        try:
            return super().get_control(x_noisy, t, cond, batched_number, options)
        finally:
            self.factors = None

    def control_merge(self, control: dict, *more: Any, **named: Any) -> dict:
        return super().control_merge({kind: self._weighed(stages) for kind, stages in control.items()}, *more, **named)

    def _weighed(self, stages: list[Tensor | None]) -> list[Tensor | None]:
        rising = self.strength_type == StrengthType.LINEAR_UP
        made = []
        for i, stage in enumerate(stages):
            factors = self.factors ** (len(stages) - i) if rising else self.factors
            made.append(None if stage is None else (stage * factors).to(stage.dtype))
        return made

    def copy(self) -> Any:
        return over_time(super().copy(), self.over_time)


@functools.cache
def _class_of(kind: type) -> type:
    return type(f"{kind.__name__}OverTime", (_OverTime, kind), {})


def over_time(control: Any, strength: Varying) -> Any:
    """A control of one's own, turned into one whose strength is multiplied by numbers that change."""
    if not isinstance(control, _OverTime):
        control.__class__ = _class_of(type(control))
    control.over_time = strength
    return control


def vary_controls(conditionings: list[list], strength: Varying) -> list[list]:
    """CONDITIONINGs whose last control has a strength that changes; those before it in its chain stay.

    Entries that share a control share its copy, so that ComfyUI still computes them together.

    Raises:
        ValueError: the first CONDITIONING has no control.
    """
    if not any(options.get(CONTROL) is not None for _, options in conditionings[0]):
        raise ValueError("`positive` has no ControlNet; put Apply ControlNet before this node.")
    made: dict[int, Any] = {}

    def varied(control: Any) -> Any:
        if id(control) not in made:
            before = control.over_time if isinstance(control, _OverTime) else Varying()
            made[id(control)] = over_time(control.copy(), strength.times(before))
            made[id(control)].previous_controlnet = control.previous_controlnet
        return made[id(control)]

    return [
        [
            [text, options if options.get(CONTROL) is None else {**options, CONTROL: varied(options[CONTROL])}]
            for text, options in conditioning
        ]
        for conditioning in conditionings
    ]
