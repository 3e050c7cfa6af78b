"""The sampler node."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from .host.checks import check_frames, require_motion_model
from .host.step.noise import LAST_SEED
from .host.step.settings import with_settings
from .schema import make_input, make_schema, model_input


def _sampling_inputs() -> list:
    """KSampler's, and the frames of a clip."""
    core = comfy.samplers.KSampler
    return [
        model_input("A motion UNet of this pack."),
        make_input(
            io.Int, "seed", default=0, min=0, max=LAST_SEED, control_after_generate=True,
            tooltip="Start of the random noise; the same seed and settings give the same clip. Costs nothing.",
        ),
        make_input(
            io.Int, "steps", default=20, min=1, max=10000,
            tooltip="Denoising steps. Time grows in proportion; 12 to 30 is usual.",
        ),
        make_input(
            io.Float, "cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01,
            tooltip="How closely to follow the prompt, 1 to 15; 3 to 8 is usual. 1 ignores the negative "
            "prompt and takes half the time.",
        ),
        make_input(
            io.Combo, "sampler_name", options=core.SAMPLERS,
            tooltip="How each step is taken. euler, ddim and dpmpp_2m run the UNet once a step, heun and "
            "dpm_2 twice.",
        ),
        make_input(
            io.Combo, "scheduler", options=core.SCHEDULERS,
            tooltip="How the noise levels of the steps are spaced. Costs nothing.",
        ),
        make_input(io.Conditioning, "positive", tooltip="What the clip should show; one text for all frames."),
        make_input(io.Conditioning, "negative", tooltip="What it should not show; not read with cfg 1."),
        make_input(
            io.Latent, "latent_image",
            tooltip="The batch is the clip: one latent per frame, 2 to 32 frames (16 is usual), with context "
            "windows any number. Time grows in proportion, memory up to a window.",
        ),
        make_input(
            io.Float, "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
            tooltip="Share of the noise to start from: 1 makes a new clip, less keeps some of the given one.",
        ),
        make_input(
            io.Int, "frames_per_clip", default=0, min=0, max=4096,
            tooltip="0: the whole batch is one clip. Otherwise the batch holds several clips of this many "
            "frames, which do not see one another. Costs nothing.",
        ),
    ]  # fmt: skip


class MotionSampler(io.ComfyNode):
    """Core's KSampler with a check of the frames before the work, and several clips in one batch."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_Sampler",
            category="sampling",
            display_name="Motion Sampler",
            description="KSampler for clips: the same latents for the same settings, and several clips in one batch.",
            search_aliases=["ksampler", "animatediff sampler", "evolved sampling"],
            inputs=_sampling_inputs(),
            outputs=[io.Latent.Output(display_name="latent", tooltip="The denoised clip, one latent per frame.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise,
        frames_per_clip,
    ) -> io.NodeOutput:  # fmt: skip
        from nodes import common_ksampler  # ComfyUI's own module of this name

        require_motion_model(model)
        check_frames(model, latent_image["samples"].shape, frames_per_clip)
        if frames_per_clip:
            model = with_settings(model, frames_per_clip=frames_per_clip)
        return io.NodeOutput(
            *common_ksampler(
                model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
            )
        )
