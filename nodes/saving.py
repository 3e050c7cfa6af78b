"""The node that writes clips to files."""

from __future__ import annotations

from comfy_api.latest import io

from .host.checks import check_choice
from .host.files.clips import KINDS, save_clip
from .schema import make_input, make_schema


class SaveClip(io.ComfyNode):
    """A batch of images as one file, with the workflow inside."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_SaveClip",
            category="saving",
            display_name="Save Clip",
            description=(
                "Saves a batch of images as one file: WebP or GIF animation, MP4 video, or a sheet of all frames. Drop "
                "a WebP, MP4 or sheet on the canvas, and the workflow that made it comes back."
            ),
            search_aliases=["save animation", "save video", "video combine", "contact sheet", "gif", "mp4", "webp"],
            inputs=[
                make_input(io.Image, "images", tooltip="The frames, in the order of the batch."),
                make_input(
                    io.String, "filename_prefix", default="UNetMotion",
                    tooltip="Start of the file's name in ComfyUI's output folder; a number follows. A / makes folders.",
                ),
                make_input(
                    io.Combo, "format", options=list(KINDS), default="webp",
                    tooltip="webp: animation in all colours, lossless or smaller. gif: 256 colours, opens everywhere, "
                    "holds no workflow. mp4: video (H.264), needs an even width and height. sheet: all frames in one "
                    "PNG.",
                ),
                make_input(
                    io.Float, "fps", default=8.0, min=0.01, max=1000.0, step=0.01,
                    tooltip="Frames a second; 8 suits most motion modules. A sheet does not read it. Costs nothing.",
                ),
                make_input(
                    io.Int, "quality", default=100, min=0, max=100,
                    tooltip="Less makes a webp or mp4 smaller and less exact; 80 to 95 is usual. 100: a lossless webp, "
                    "the best mp4. A gif and a sheet do not read it.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The same frames, for nodes that follow.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, images, filename_prefix, format, fps, quality) -> io.NodeOutput:
        check_choice("format", format, list(KINDS))
        return io.NodeOutput(images, ui=save_clip(images, filename_prefix, format, fps, quality, cls.hidden))
