"""The node that lets AnimateLCM-I2V animate a picture."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.model.image_encoder import MOTION_SCALE
from .host.step.animatelcm import set_picture
from .schema import make_input, make_schema, model_input, model_output


class AnimateLCMPicture(io.ComfyNode):
    """The picture that AnimateLCM-I2V's motion modules animate."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_AnimateLCMI2V",
            category="motion",
            display_name="AnimateLCM-I2V Picture",
            description="Gives AnimateLCM-I2V's motion modules the picture that they animate in a few steps.",
            search_aliases=["animatelcm", "image to video", "i2v"],
            inputs=[
                model_input("A motion UNet with AnimateLCM-I2V's motion modules, from Apply Motion Module."),
                make_input(
                    io.Latent, "picture",
                    tooltip="The picture from VAE Encode, of the clip's size, or one for every frame. Adds about 5 % "
                    "of computation to a step.",
                ),
                make_input(
                    io.Float, "motion_scale", default=MOTION_SCALE, min=0.0, max=3.0, step=0.01,
                    tooltip="How far the frames move apart: 0 is still, 0.8 the authors' choice; too much breaks the "
                    "picture. Costs nothing.",
                ),
                make_input(
                    io.Float, "strength", default=1.0, min=0.0, max=2.0, step=0.01,
                    tooltip="How closely the clip follows the picture: 0 leaves only the prompt. Costs nothing.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, picture, motion_scale, strength) -> io.NodeOutput:
        return io.NodeOutput(set_picture(model, picture, motion_scale, strength))
