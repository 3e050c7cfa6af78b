"""The node that lets a clip follow a picture."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.control.pia import LOOPS, PRESETS
from .host.checks import check_choice
from .host.step.pia import parse_influence, set_first_frame
from .schema import make_input, make_schema, model_input, model_output

CUSTOM = "custom"


class PIAFirstFrame(io.ComfyNode):
    """The picture that PIA's motion modules animate."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_PIA",
            category="motion",
            display_name="PIA First Frame",
            description="Gives PIA's motion modules the picture that they animate, and how closely frames follow it.",
            search_aliases=["pia", "image to video", "personalized image animator"],
            inputs=[
                model_input("A motion UNet with PIA's motion modules, from Apply Motion Module."),
                make_input(
                    io.Latent, "first_frame",
                    tooltip="The picture from VAE Encode, of the clip's size. Costs next to no time.",
                ),
                make_input(
                    io.Combo, "preset", options=[*PRESETS, CUSTOM], default="medium motion",
                    tooltip="How closely frames follow the picture; these are the authors' numbers. Loops come back to "
                    "it, new style is for a base model of another style. custom reads influence below. Costs nothing.",
                ),
                make_input(
                    io.String, "influence", default="1.0, 0.8, 0.75",
                    tooltip="Only read with custom: 0 to 1 for the picture's frame, its neighbours, and so on; the "
                    "last number holds for the rest. Costs nothing.",
                ),
                make_input(
                    io.Int, "frame", default=0, min=0, max=4095,
                    tooltip="Which frame of the clip is the picture; 0 is the first. Costs nothing.",
                ),
                make_input(
                    io.Float, "strength", default=1.0, min=0.0, max=2.0, step=0.01,
                    tooltip="Multiplies the influence: lower moves more and follows less. Costs nothing.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, first_frame, preset, influence, frame, strength) -> io.NodeOutput:
        check_choice("preset", preset, [*PRESETS, CUSTOM])
        values = list(PRESETS[preset]) if preset in PRESETS else parse_influence(influence)
        return io.NodeOutput(set_first_frame(model, first_frame, values, preset in LOOPS, frame, strength))
