"""The node that lays a picture into a clip while it is sampled."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion import ImageInjection
from .host.curves import read_amount, read_curves
from .host.step.image_injection import inject_image
from .host.step.varying import Varying
from .over_time import curve_input
from .schema import make_input, make_schema, model_input, model_output

FAR = 16384


class InjectImage(io.ComfyNode):
    """A picture in the clip, from a share of the steps on."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_ImageInjection",
            category="sampling",
            display_name="Image Injection (motion)",
            description="At a share of the steps the clip so far is decoded, a picture laid in, and encoded again.",
            search_aliases=["image injection", "inject image", "img encoder", "composite while sampling"],
            inputs=[
                model_input("Any SD1.5 or SDXL model; several of these nodes in a row follow one another."),
                make_input(io.Vae, "vae", tooltip="The VAE that belongs to the model. Decodes once and encodes twice."),
                make_input(io.Image, "image", tooltip="One picture for all frames, or one for each."),
                make_input(
                    io.Float, "at", default=0.3, min=0.0, max=1.0, step=0.001,
                    tooltip="Share of the sampling, 0 is its first step and 1 its last. Early, the clip is drawn "
                    "around the picture; late, the picture stays as it is.",
                ),
                make_input(
                    io.Float, "strength", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="0 changes nothing, 1 lays the picture over the clip.",
                ),
                make_input(
                    io.Int, "x", default=0, min=-FAR, max=FAR,
                    tooltip="Where the picture's left edge lies in the clip, in pixels.",
                ),
                make_input(
                    io.Int, "y", default=0, min=-FAR, max=FAR,
                    tooltip="Where the picture's upper edge lies in the clip, in pixels.",
                ),
                make_input(
                    io.Mask, "mask", optional=True,
                    tooltip="Where in the picture: white counts, black does not. One mask, or one for each frame.",
                ),
                curve_input("strength_curve", "Multiplied with strength."),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, vae, image, at, strength, x, y, mask=None, strength_curve=None) -> io.NodeOutput:
        if vae is None:
            raise ValueError("`vae` is empty: the checkpoint has none; use a loader that gives one.")
        number, own = read_amount("strength", strength)
        varying = Varying.of(number, [*own, *read_curves("strength_curve", strength_curve)])
        if varying.steps:
            raise ValueError("`strength_curve` goes over the steps, expected one over the frames: it is laid in once.")
        pictures = image[..., :3]
        return io.NodeOutput(inject_image(model, ImageInjection(pictures, at, 1.0, mask, x, y), vae, varying))
