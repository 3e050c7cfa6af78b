"""Nodes for what happens when: curves, prompts over frames, and how strongly the motion acts."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.schedule import INTERPOLATIONS, OVER, Curve, PromptSchedule
from .host.amounts import with_amount
from .host.checks import check_choice, require_motion_model
from .host.curves import ACCEPTED, CoreCurveType, Curves, CurveType, read_amount, read_curves, to_core, to_floats
from .host.prompts import scheduled_conditioning
from .host.step.guidance import set_guidance
from .host.step.varying import Varying
from .schema import make_input, make_schema, model_input, model_output

TRAVEL = '"0": "a red star moving left", "15": "a blue star moving left"'
BLOCKS_TIP = (
    "For the motion modules of which blocks, between commas, such as down_blocks, mid_block, up_blocks.1. Empty: all. "
    "Costs nothing."
)


def curve_input(name: str, what: str):
    tooltip = f"{what} A curve over frames or steps, core's CURVE, or a list of numbers, one for each frame."
    return make_input(io.MultiType, name, types=ACCEPTED, optional=True, tooltip=tooltip)


class MotionCurve(io.ComfyNode):
    """A number that changes over the frames or the steps."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_Curve",
            category="motion",
            display_name="Motion Curve",
            description="A number that changes over the frames of a clip or over the steps of the sampling.",
            search_aliases=["keyframes", "schedule", "float list", "multival", "timeline", "value schedule"],
            inputs=[
                make_input(
                    io.String, "text", default="0:1, -1:1", multiline=True,
                    tooltip="PLACE:VALUE between commas or in lines, such as 0:1, 8:0.5 smooth, -1:0. A place is a "
                    "frame, -1 being the last one, or a share such as 50%. Behind the value: hold, linear (without a "
                    "word), smooth or monotone. One number, a list of numbers or JSON will do too.",
                ),
                make_input(
                    io.Combo, "over", options=list(OVER), default=OVER[0],
                    tooltip="frames: of the clip. steps: of the sampling, where 0 is the first step and 1 the last.",
                ),
                make_input(
                    io.Int, "frames", default=16, min=1, max=100000,
                    tooltip="Frames of the clip, for the outputs curve and floats alone; the motion curve fits any "
                    "clip.",
                ),
                curve_input("times", "Multiplied with the curve of the text."),
            ],
            outputs=[
                CurveType.Output(display_name="motion_curve", tooltip="For this pack's inputs of that type."),
                CoreCurveType.Output(display_name="curve", tooltip="As core's Curve Editor gives it."),
                io.Float.Output(display_name="floats", tooltip="A list of numbers, one for each frame."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, text, over, frames, times=None) -> io.NodeOutput:
        check_choice("over", over, OVER)
        curves = Curves((Curve.parse("text", text, over), *read_curves("times", times, over)))
        return io.NodeOutput(curves, to_core(curves, frames), to_floats(curves, frames))


class PromptTravel(io.ComfyNode):
    """Prompts over the frames of a clip."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_PromptSchedule",
            category="sampling",
            display_name="Prompt Schedule",
            description="Prompts that change from frame to frame: each is encoded once, and mixed exactly in between.",
            search_aliases=["prompt travel", "batch prompt schedule", "fizznodes", "prompt scheduling", "keyframes"],
            inputs=[
                make_input(io.Clip, "clip", tooltip="The text encoder that belongs to the model."),
                make_input(
                    io.String, "text", default=TRAVEL, multiline=True, dynamic_prompts=False,
                    tooltip='Lines "FRAME": "PROMPT", with or without a comma behind. A frame may be negative (-1 is '
                    'the '
                    "last one), a share such as 50%, a range such as 0:8 that holds its prompt, or 8: which holds it "
                    "up to the next line. What stands behind --neg goes to the negative output. JSON will do too.",
                ),
                make_input(
                    io.Int, "frames", default=16, min=1, max=100000,
                    tooltip="Frames of the clip, as many as latents. Memory grows with it.",
                ),
                make_input(io.String, "before", default="", tooltip="Text that stands before each prompt."),
                make_input(io.String, "after", default="", tooltip="Text that stands behind each prompt."),
                make_input(
                    io.Combo, "interpolation", options=list(INTERPOLATIONS), default=INTERPOLATIONS[0],
                    tooltip="Between two prompts. linear: the mean of what the text encoder gives, weighted. slerp: on "
                    "a circle from token to token, which keeps their length. Both cost nothing.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="A row of text for each frame."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The same of what stands behind --neg; else the empty prompt."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, text, frames, before, after, interpolation) -> io.NodeOutput:
        if clip is None:
            raise ValueError("`clip` is empty: the checkpoint has no text encoder; use a loader that gives one.")
        both = PromptSchedule.parse("text", text, before, after, interpolation).split_negative()
        return io.NodeOutput(*(scheduled_conditioning(clip, schedule, frames) for schedule in both))


class MotionAmount(io.ComfyNode):
    """How strongly motion modules act."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_MotionAmount",
            category="motion",
            display_name="Motion Amount",
            description="More or less motion: over frames and steps, in parts of the picture, block by block.",
            search_aliases=["motion scale", "multival", "effect", "scale_multival", "effect_multival", "per block"],
            inputs=[
                model_input("A motion UNet; several of these nodes in a row multiply."),
                make_input(
                    io.Float, "scale", default=1.0, min=0.0, max=10.0, step=0.01,
                    tooltip="Factor of the keys of attention over the frames: above 1 more movement, below 1 less; 0.8 "
                    "to 1.3 is usual. 1 changes nothing. Costs next to no time.",
                ),
                make_input(
                    io.Float, "effect", default=1.0, min=-10.0, max=10.0, step=0.01,
                    tooltip="Share of what motion modules add: 0 none, each frame by itself; 1 all, as trained. 0 "
                    "saves their time.",
                ),
                make_input(io.String, "blocks", default="", tooltip=BLOCKS_TIP),
                curve_input("scale_curve", "Multiplied with scale."),
                curve_input("effect_curve", "Multiplied with effect."),
                make_input(
                    io.Mask, "mask", optional=True,
                    tooltip="Where in the picture: white as set here, black as trained. One mask, or one for each "
                    "frame.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, scale, effect, blocks, scale_curve=None, effect_curve=None, mask=None
    ) -> io.NodeOutput:  # fmt: skip
        require_motion_model(model)
        values = []
        for name, value, curve in (("scale", scale, scale_curve), ("effect", effect, effect_curve)):
            number, own = read_amount(name, value)
            values.append(Varying.of(number, [*own, *read_curves(f"{name}_curve", curve)]))
        return io.NodeOutput(with_amount(model, *values, blocks, mask))


class Guidance(io.ComfyNode):
    """Guidance over the frames and the steps."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_Guidance",
            category="sampling",
            display_name="Guidance (motion)",
            description="A guidance scale that changes over frames or steps, in place of the sampler's cfg.",
            search_aliases=["cfg", "custom cfg", "cfg schedule", "guidance schedule"],
            inputs=[
                model_input("Any model; each latent of the batch is a frame."),
                make_input(
                    io.Float, "cfg", default=7.0, min=0.0, max=100.0, step=0.1,
                    tooltip="How closely to follow the prompt, in place of the sampler's cfg. Both prompts are always "
                    "computed.",
                ),
                curve_input("cfg_curve", "Multiplied with cfg."),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, cfg, cfg_curve=None) -> io.NodeOutput:
        number, own = read_amount("cfg", cfg)
        return io.NodeOutput(set_guidance(model, Varying.of(number, [*own, *read_curves("cfg_curve", cfg_curve)])))
