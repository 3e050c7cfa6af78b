"""Nodes for clips that are longer than a motion module's position table."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..unet_motion.sampling import FUSES, SCHEDULES, ContextWindows
from .host.checks import check_choice, require_motion_model
from .host.step.context_windows import WindowPart, set_windows
from .host.step.window_picture import picture_of_windows
from .host.step.window_run import check_length
from .schema import make_input, make_schema, model_input, model_output

MOST_FRAMES = 4096


def _window_inputs() -> list:
    """What the windows are."""
    return [
        model_input("A motion UNet of this pack."),
        make_input(
            io.Int, "length", default=16, min=1, max=MOST_FRAMES,
            tooltip="Frames of a window: what the motion module was trained with, mostly 16, and at most the "
            "rows of its position table. Memory grows with it, not with the clip.",
        ),
        make_input(
            io.Int, "overlap", default=4, min=0, max=MOST_FRAMES - 1,
            tooltip="Frames that neighbouring windows share. More is smoother and takes more windows: with 4 "
            "of 16 a third more time than with 0. batched has none.",
        ),
        make_input(
            io.Int, "stride", default=1, min=1, max=32,
            tooltip="Only for the uniform schedules: from 2 on also windows of every second frame, from 3 on "
            "of every fourth, and so on, which hold long clips together and take more time.",
        ),
        make_input(
            io.Combo, "schedule", options=list(SCHEDULES), default="standard_uniform",
            tooltip="standard_static: the same windows in each step. standard_uniform: they start elsewhere in "
            "each step, which hides the seams. looped_uniform: they also go on from the last frame to the "
            "first. batched: one behind the other, without overlap.",
        ),
        make_input(
            io.Boolean, "closed_loop", default=False,
            tooltip="Only with looped_uniform: the clip can be played as a loop. Costs a window a step.",
        ),
        make_input(
            io.Int, "loop_frames", default=0, min=0, max=MOST_FRAMES - 1,
            tooltip="Only with closed_loop. 0: the whole clip is a loop. Otherwise only so many frames at the "
            "end lead back to the first one, and the rest is drawn as without a loop.",
        ),
    ]  # fmt: skip


def _run_inputs() -> list:
    """How their results are averaged, and when they hold."""
    percent = {"min": 0.0, "max": 1.0, "step": 0.001}
    return [
        make_input(
            io.Combo, "fuse", options=list(FUSES), default="pyramid",
            tooltip="Weights of a window's frames in the average. flat: equal. pyramid: falling from the "
            "middle. relative: falling to almost nothing. overlap-linear: a ramp over the overlap. gaussian: a "
            "bell. All cost the same.",
        ),
        make_input(
            io.Boolean, "free_noise", default=False,
            tooltip="FreeNoise: later frames start from the first window's noise in another order, which keeps "
            "what the clip shows. Costs nothing.",
        ),
        make_input(
            io.Boolean, "use_on_equal_length", default=False, advanced=True,
            tooltip="Windows also for a clip of just length frames, where a loop still changes something.",
        ),
        make_input(
            io.Int, "windows_at_once", default=1, min=1, max=64, advanced=True,
            tooltip="Windows in one pass of the model, fewer where memory is short: the same clip within "
            "rounding, more memory, faster where one window does not fill the graphics card.",
        ),
        make_input(
            io.Float, "start_percent", default=0.0, **percent, advanced=True,
            tooltip="From this share of the sampling on, 0 is its first step. An earlier Context Windows node "
            "counts for the steps outside.",
        ),
        make_input(
            io.Float, "end_percent", default=1.0, **percent, advanced=True,
            tooltip="Up to this share of the sampling, 1 is its last step.",
        ),
    ]  # fmt: skip


def _view_inputs() -> list:
    """Whether the windows are inside the motion modules."""
    return [
        make_input(
            io.Boolean, "views", default=False, optional=True, advanced=True,
            tooltip="Windows inside the motion modules only, as FreeNoise has them; all else runs once for each "
            "frame. Less time where windows overlap, and memory that grows with the clip.",
        ),
        make_input(
            io.Int, "frames_at_once", default=0, min=0, max=MOST_FRAMES, optional=True, advanced=True,
            tooltip="Only with views: frames that the layers between motion modules see at a time, 0 for all. The "
            "same clip; less memory and hardly more time.",
        ),
    ]  # fmt: skip


class ContextWindowsNode(io.ComfyNode):
    """Draws a clip in overlapping windows of frames."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_ContextWindows",
            category="sampling",
            display_name="Context Windows (motion)",
            description="Clips of any length: each step is drawn in overlapping windows of frames, which are averaged.",
            search_aliases=["context", "animatediff context options", "long clip", "sliding context", "loop"],
            inputs=[*_window_inputs(), *_run_inputs(), *_view_inputs()],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, length, overlap, stride, schedule, closed_loop, loop_frames, fuse, free_noise, use_on_equal_length,
        windows_at_once, start_percent, end_percent, views=False, frames_at_once=0,
    ) -> io.NodeOutput:  # fmt: skip
        view = require_motion_model(model)
        check_choice("schedule", schedule, SCHEDULES)
        check_choice("fuse", fuse, FUSES)
        windows = ContextWindows(
            length, overlap, stride, schedule, closed_loop, loop_frames or None, fuse, use_on_equal_length
        )
        check_length(length, view.core.config.motion_max_seq_length)
        if start_percent >= end_percent:
            raise ValueError(f"`start_percent` is {start_percent:g}, expected less than `end_percent` {end_percent:g}.")
        part = WindowPart(windows, windows_at_once, free_noise, start_percent, end_percent, views, frames_at_once)
        return io.NodeOutput(set_windows(model, part))


class ShowContextWindows(io.ComfyNode):
    """Which window covers which frame at each step."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_ShowContextWindows",
            category="sampling",
            display_name="Show Context Windows",
            description="A picture of which window covers which frame at each step; nothing is sampled.",
            search_aliases=["visualize context options", "context windows preview"],
            inputs=[
                model_input("A MODEL with Context Windows."),
                make_input(io.Latent, "latent_image", tooltip="The latents that will be sampled: a frame each."),
                make_input(
                    io.Int, "steps", default=20, min=1, max=10000,
                    tooltip="Steps of the sampler; the picture has a band for each of the first 64.",
                ),
                make_input(
                    io.Combo, "scheduler", options=comfy.samplers.KSampler.SCHEDULERS,
                    tooltip="That of the sampler; it decides which steps lie in a part of the sampling.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="Steps from top to bottom, a line for each window, frames from left to right; the "
                    "brighter, the more a frame comes from that window.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, latent_image, steps, scheduler) -> io.NodeOutput:
        require_motion_model(model)
        check_choice("scheduler", scheduler, comfy.samplers.KSampler.SCHEDULERS)
        return io.NodeOutput(picture_of_windows(model, len(latent_image["samples"]), steps, scheduler))
