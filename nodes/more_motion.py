"""The node that puts further motion modules on a MODEL."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.schedule import Curve, Key, Place
from .host.checks import check_choice
from .host.curves import read_curves
from .host.model.more_motion import add_motion_module
from .host.step.varying import Varying
from .loading import NORM_SCOPE_CHOICES
from .over_time import curve_input
from .schema import MotionModuleType, make_input, make_schema, model_input, model_output

NORM_TIP = (
    "Over which frames the group norms of these modules take their statistics. auto: as they were trained "
    "(recommended). v1, v2, v3: each frame alone. sdxl, diffusers: over all frames. Costs nothing."
)


def steps_between(start: float, end: float) -> list[Curve]:
    """A curve over the steps that is 1 in a part of the sampling and 0 outside of it; none for all of it.

    Raises:
        ValueError: an end that does not lie behind the start.
    """
    if start >= end:
        raise ValueError(f"`start_percent` is {start:g}, expected less than `end_percent` {end:g}.")
    values = [(0.0, 0.0)] * (start > 0) + [(start, 1.0)] + [(end, 0.0)] * (end < 1)
    if len(values) == 1:
        return []
    return [Curve(tuple(Key(Place(at, share=True), value, "hold") for at, value in values), "steps")]


class AddMotionModule(io.ComfyNode):
    """Motion modules beside those of a MODEL."""

    @classmethod
    def define_schema(cls):
        percent = {"min": 0.0, "max": 1.0, "step": 0.001}
        return make_schema(
            node_id="UNetMotion_AddMotionModule",
            category="motion",
            display_name="Add Motion Module",
            description="Further motion modules beside those of Apply Motion Module, each in its part of the sampling.",
            search_aliases=["multiple motion models", "two motion modules", "gen2", "motion model settings"],
            inputs=[
                model_input("A model behind Apply Motion Module. The modules that it has stay; see Motion Amount."),
                make_input(
                    MotionModuleType, "motion_module", tooltip="From Load Motion Module. Adds its time to a step."
                ),
                make_input(
                    io.Float, "effect", default=1.0, min=-10.0, max=10.0, step=0.01,
                    tooltip="Share of what these modules add: 0 none, 1 all, as trained. Give the others less with "
                    "Motion Amount where all together are too much.",
                ),
                make_input(
                    io.Float, "scale", default=1.0, min=0.0, max=10.0, step=0.01,
                    tooltip="Factor of the keys of their attention over the frames: above 1 more movement, below 1 "
                    "less.",
                ),
                make_input(
                    io.Float, "start_percent", default=0.0, **percent,
                    tooltip="From this share of the sampling on, 0 is its first step. Outside they cost no more than "
                    "a curve does.",
                ),
                make_input(
                    io.Float, "end_percent", default=1.0, **percent,
                    tooltip="Up to this share of the sampling, 1 is its last step.",
                ),
                make_input(
                    io.Combo, "norm_scope", options=NORM_SCOPE_CHOICES, default="auto", tooltip=NORM_TIP
                ),
                curve_input("effect_curve", "Multiplied with effect."),
                curve_input("scale_curve", "Multiplied with scale."),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, motion_module, effect, scale, start_percent, end_percent, norm_scope, effect_curve=None,
        scale_curve=None,
    ) -> io.NodeOutput:  # fmt: skip
        check_choice("norm_scope", norm_scope, NORM_SCOPE_CHOICES)
        between = steps_between(start_percent, end_percent)
        effects = Varying.of(effect, [*between, *read_curves("effect_curve", effect_curve)])
        scales = Varying.of(scale, read_curves("scale_curve", scale_curve))
        return io.NodeOutput(add_motion_module(model, motion_module, scales, effects, norm_scope))
