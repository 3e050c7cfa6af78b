"""The node whose prompts and curves are drawn on a line of frames."""

from __future__ import annotations

import json
from dataclasses import replace

from comfy_api.latest import io

from ..unet_motion.schedule import PromptKey, PromptSchedule, Timeline
from ..unet_motion.schedule.places import Place
from .host.amounts import with_amount
from .host.checks import require_motion_model
from .host.curves import Curves, CurveType
from .host.prompts import scheduled_conditioning
from .host.step.guidance import set_guidance
from .host.step.varying import Varying
from .schema import make_input, make_schema, model_input

DEFAULT = json.dumps(
    Timeline(
        PromptSchedule(
            (
                PromptKey(Place(0.0), "a red star moving left"),
                PromptKey(Place(8.0), "a blue star moving left"),
            )
        )
    ).to_json()
)


class TimelineNode(io.ComfyNode):
    """Prompts and amounts over the frames of a clip, edited as bars and curves."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_Timeline",
            category="sampling",
            display_name="Timeline (motion)",
            description="Prompts as bars and amounts as curves along the frames of a clip, drawn and edited here.",
            search_aliases=["timeline", "keyframes", "prompt travel", "storyboard", "prompt schedule"],
            inputs=[
                model_input("A motion UNet; for prompts and guidance alone any model will do."),
                make_input(io.Clip, "clip", tooltip="The text encoder that belongs to the model."),
                make_input(
                    io.String, "timeline", default=DEFAULT, multiline=True, dynamic_prompts=False,
                    tooltip="The state of the drawing as JSON: prompts as in Prompt Schedule, and the curves scale, "
                    "effect, cfg and strength. The same text goes through the API.",
                ),
                make_input(
                    io.Int, "frames", default=16, min=1, max=100000,
                    tooltip="Frames of the clip, as many as latents. Memory grows with it.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="With scale and effect of the motion and with guidance as drawn."
                ),
                io.Conditioning.Output(display_name="positive", tooltip="A row of text for each frame."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The same of what stands behind --neg; else the empty prompt."
                ),
                CurveType.Output(
                    display_name="strength",
                    tooltip="The curve strength, for whatever takes one; 1 where none is drawn.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, timeline, frames) -> io.NodeOutput:
        if clip is None:
            raise ValueError("`clip` is empty: the checkpoint has no text encoder; use a loader that gives one.")
        line = Timeline.parse("timeline", timeline)
        try:
            line.check(frames)
        except ValueError as error:
            raise ValueError(f"`timeline`: {error}.") from None
        curves = {name: replace(curve, name="timeline") for name, curve in line.curves.items()}
        amounts = [Varying.of(1.0, [curves[name]] if name in curves else []) for name in ("scale", "effect")]
        if curves.keys() & {"scale", "effect"}:
            require_motion_model(model)
            model = with_amount(model, *amounts, "", None)
        if "cfg" in curves:
            model = set_guidance(model, Varying.of(1.0, [curves["cfg"]]))
        positive, negative = (scheduled_conditioning(clip, part, frames) for part in line.prompts.split_negative())
        strength = Curves([curves["strength"]] if "strength" in curves else [])
        return io.NodeOutput(model, positive, negative, strength)
