"""Nodes for strengths that change from frame to frame: of ControlNets and of masks."""

from __future__ import annotations

from comfy_api.latest import io

from .host.curves import read_amount, read_curves
from .host.masks import mask_over_frames
from .host.step.control_strength import vary_controls
from .host.step.varying import Varying
from .over_time import curve_input
from .schema import make_input, make_schema


class ControlStrength(io.ComfyNode):
    """The strength of a ControlNet over frames and steps."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_ControlStrength",
            category="sampling",
            display_name="ControlNet Strength (motion)",
            description="Makes the strength of the last ControlNet or T2I-Adapter change over the frames or the steps.",
            search_aliases=["controlnet keyframes", "timestep keyframe", "latent keyframe", "control weights"],
            inputs=[
                make_input(io.Conditioning, "positive", tooltip="The positive prompt, from Apply ControlNet."),
                make_input(io.Conditioning, "negative", tooltip="The negative prompt, from the same Apply ControlNet."),
                make_input(
                    io.Float, "strength", default=1.0, min=0.0, max=10.0, step=0.01,
                    tooltip="Multiplied with the strength of Apply ControlNet. 1 changes nothing.",
                ),
                curve_input("strength_curve", "Multiplied with strength."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the strength that changes."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same strength."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, positive, negative, strength, strength_curve=None) -> io.NodeOutput:
        number, own = read_amount("strength", strength)
        varying = Varying.of(number, [*own, *read_curves("strength_curve", strength_curve)])
        return io.NodeOutput(*vary_controls([positive, negative], varying))


class MaskStrength(io.ComfyNode):
    """A mask that is stronger or weaker from frame to frame."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_MaskStrength",
            category="motion",
            display_name="Mask Strength (motion)",
            description="Multiplies a mask by a number for each frame, for noise masks and whatever else takes masks.",
            search_aliases=["noise mask schedule", "mask keyframes", "scale mask", "set latent noise mask"],
            inputs=[
                make_input(io.Mask, "mask", tooltip="One mask for all frames, or one for each."),
                make_input(
                    io.Int, "frames", default=16, min=1, max=100000,
                    tooltip="Frames of the clip, as many as latents. Memory grows with it.",
                ),
                make_input(
                    io.Float, "strength", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Multiplied with the mask: 1 leaves it as it is, 0 makes it black.",
                ),
                curve_input("strength_curve", "Multiplied with strength."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="A mask for each frame, from 0 to 1.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, mask, frames, strength, strength_curve=None) -> io.NodeOutput:
        number, own = read_amount("strength", strength)
        varying = Varying.of(number, [*own, *read_curves("strength_curve", strength_curve)])
        return io.NodeOutput(mask_over_frames(mask, frames, varying))
