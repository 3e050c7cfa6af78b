"""Nodes between latents and video files, for clips whose pictures would not fit into memory."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.video import FrameRange
from .host.files.streams import MOST_SIDE, decode_to_file, encode_from_file
from .schema import make_input, make_schema

AT_ONCE_TIP = "Frames that are held as pictures at a time: more take more memory and hardly less time."


def _at_once():
    return make_input(io.Int, "frames_at_once", default=8, min=1, max=256, tooltip=AT_ONCE_TIP)


class DecodeToFile(io.ComfyNode):
    """VAE Decode and Save Clip in one, a few frames at a time."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_DecodeToFile",
            category="saving",
            display_name="Decode To File",
            description="Latents to an MP4 a few frames at a time: a clip of any length needs no more memory than a "
            "short one. Drop the file on the canvas, and the workflow comes back.",
            search_aliases=["vae decode", "save video", "video combine", "long video", "mp4"],
            inputs=[
                make_input(io.Latent, "samples", tooltip="The clip, one latent per frame."),
                make_input(io.Vae, "vae", tooltip="The VAE of the model that the latents belong to."),
                make_input(
                    io.String, "filename_prefix", default="UNetMotion",
                    tooltip="Start of the file's name in ComfyUI's output folder; a number follows. A / makes folders.",
                ),
                make_input(
                    io.Float, "fps", default=8.0, min=0.01, max=1000.0, step=0.01,
                    tooltip="Frames a second; 8 suits most motion modules. Costs nothing.",
                ),
                make_input(
                    io.Int, "quality", default=100, min=0, max=100,
                    tooltip="Less makes the file smaller and less exact; 80 to 95 is usual.",
                ),
                _at_once(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The file, for core's video nodes: they read it anew."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, samples, vae, filename_prefix, fps, quality, frames_at_once) -> io.NodeOutput:
        latents = samples["samples"]
        video, shown = decode_to_file(latents, vae, filename_prefix, fps, quality, frames_at_once, cls.hidden)
        return io.NodeOutput(video, ui=shown)


class EncodeFromFile(io.ComfyNode):
    """Frames of a video as latents, a few frames at a time."""

    @classmethod
    def define_schema(cls):
        side = {"default": 0, "min": 0, "max": MOST_SIDE, "step": 8}
        return make_schema(
            node_id="UNetMotion_EncodeFromFile",
            category="loading",
            display_name="Encode From File",
            description="Frames of a video to latents a few frames at a time, for video to video of any length.",
            search_aliases=["vae encode", "load video", "video to video", "long video", "frame load cap"],
            inputs=[
                make_input(io.Video, "video", tooltip="As Load Video gives it, also trimmed."),
                make_input(io.Vae, "vae", tooltip="The VAE of the model that the latents belong to."),
                make_input(
                    io.Int, "frames", default=0, min=0, max=1000000,
                    tooltip="How many frames to take; 0: all to the end. A video with fewer is an error.",
                ),
                make_input(
                    io.Int, "skip_first", default=0, min=0, max=1000000,
                    tooltip="Frames to leave out at the start.",
                ),
                make_input(
                    io.Int, "every_nth", default=1, min=1, max=1000,
                    tooltip="1: each frame, 2: every second one, and so on; fps falls with it.",
                ),
                make_input(
                    io.Int, "width", **side,
                    tooltip="Pixels that frames are scaled and cut to; 0: as they are, or in ratio to the height.",
                ),
                make_input(
                    io.Int, "height", **side,
                    tooltip="Pixels that frames are scaled and cut to; 0: as they are, or in ratio to the width.",
                ),
                _at_once(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The clip, one latent per frame."),
                io.Int.Output(display_name="frames", tooltip="How many frames it has."),
                io.Float.Output(display_name="fps", tooltip="Frames a second of what was taken."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, video, vae, frames, skip_first, every_nth, width, height, frames_at_once
    ) -> io.NodeOutput:
        wanted = FrameRange(frames, skip_first, every_nth)
        latents, fps = encode_from_file(video, vae, wanted, width, height, frames_at_once)
        return io.NodeOutput({"samples": latents}, len(latents), fps)
