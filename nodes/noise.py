"""Nodes for the noise that a clip starts from."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.sampling import FILTERS, NOISES, ContextWindows
from ..unet_motion.sampling import FreeInit as FreeInitSettings
from .host.checks import check_choice, require_motion_model
from .host.step.free_init import use_free_init
from .host.step.noise import ClipNoise, use_noise
from .schema import make_input, make_schema, model_input, model_output


def _noise_inputs() -> list:
    """The seed, the kind and what it is mixed with."""
    return [
        make_input(
            io.Int, "noise_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
            tooltip="Start of the random numbers. Costs nothing.",
        ),
        make_input(
            io.Combo, "kind", options=list(NOISES), default="free_noise",
            tooltip="default: as RandomNoise. free_noise: later frames get the noise of earlier ones, "
            "shuffled, so that a long clip keeps what it shows. repeated: the first window's over and over. "
            "constant: the same for every frame. seed_per_frame: frame i from the seed plus i, so that a "
            "longer clip begins the same. empty: none. All cost the same.",
        ),
        make_input(
            io.Int, "window_length", default=16, min=1, max=4096,
            tooltip="Frames of a context window, for free_noise and repeated: as in the windows' node.",
        ),
        make_input(
            io.Int, "overlap", default=4, min=0, max=4095,
            tooltip="Frames that neighbouring windows share, for free_noise; less than window_length.",
        ),
        make_input(
            io.Float, "weight", default=0.5, min=0.0, max=1.0, step=0.01,
            tooltip="Share of this noise where mix_with is linked; the rest is the other's. The sum is "
            "scaled so that its strength stays that of noise.",
        ),
        make_input(
            io.Noise, "mix_with", optional=True,
            tooltip="Another noise to mix with, also one that is a mix. They are independent even with the "
            "same seed.",
        ),
    ]  # fmt: skip


class Noise(io.ComfyNode):
    """Core's NOISE, of a kind that suits clips."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_Noise",
            category="sampling",
            display_name="Noise (motion)",
            description="Noise for the frames of a clip: repeated, shuffled, one for all, or a seed for each frame; "
            "mixed where another one is linked.",
            search_aliases=["freenoise", "free noise", "random noise", "noise type", "noise layers"],
            inputs=_noise_inputs(),
            outputs=[
                io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced, or for Use Noise (motion)."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, noise_seed, kind, window_length, overlap, weight, mix_with=None) -> io.NodeOutput:
        check_choice("kind", kind, list(NOISES))
        if kind == "free_noise" and overlap >= window_length:
            raise ValueError(f"`overlap` is {overlap}, expected less than `window_length`, which is {window_length}.")
        overlap = min(overlap, window_length - 1)
        windows = ContextWindows(window_length, overlap, schedule="standard_static")
        return io.NodeOutput(ClipNoise(noise_seed, kind, windows, mix_with, 1.0 if mix_with is None else weight))


class UseNoise(io.ComfyNode):
    """A MODEL whose runs start from a NOISE."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_UseNoise",
            category="sampling",
            display_name="Use Noise (motion)",
            description="KSampler, Motion Sampler and all others that get this model start from this noise.",
            search_aliases=["freenoise", "noise type", "sample settings"],
            inputs=[
                model_input("A motion UNet of this pack."),
                make_input(
                    io.Noise, "noise",
                    tooltip="Noise (motion), or a core node's. Samplers that add no noise go on without.",
                ),
                make_input(
                    io.Boolean, "follow_seed", default=True,
                    tooltip="On: drawn from the sampler's seed, with the kinds and weights of the noise. Off: from "
                    "the noise's own seed, whatever the sampler's is. Costs nothing.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, noise, follow_seed) -> io.NodeOutput:
        require_motion_model(model)
        return io.NodeOutput(use_noise(model, noise, follow_seed))


class FreeInit(io.ComfyNode):
    """FreeInit around any sampler."""

    @classmethod
    def define_schema(cls):
        stop = {"default": 0.25, "min": 0.01, "max": 1.0, "step": 0.01}
        return make_schema(
            node_id="UNetMotion_FreeInit",
            category="sampling",
            display_name="FreeInit (motion)",
            description="Samples the clip several times, each time from noise that holds the coarse shapes of the last "
            "result: less flicker, for several times the time.",
            search_aliases=["freeinit", "free init", "iteration", "flicker"],
            inputs=[
                model_input("A motion UNet of this pack. Any sampler does that gets the model from here."),
                make_input(
                    io.Int, "iterations", default=3, min=1, max=16,
                    tooltip="Runs in all; 1 changes nothing, 2 to 5 is usual. Time grows in proportion.",
                ),
                make_input(
                    io.Combo, "filter", options=list(FILTERS), default="butterworth",
                    tooltip="Which frequencies of the last result the next run begins with. gaussian: a soft edge. "
                    "butterworth: a steeper one. ideal, box: a sharp edge, round or along each axis. Costs nothing.",
                ),
                make_input(
                    io.Float, "spatial_stop", **stop,
                    tooltip="Up to this share of the finest detail in the picture the last result is kept; more keeps "
                    "more of it.",
                ),
                make_input(
                    io.Float, "temporal_stop", **stop,
                    tooltip="The same over time: up to this share of the fastest change from frame to frame.",
                ),
                make_input(
                    io.Int, "order", default=4, min=1, max=16,
                    tooltip="How steep butterworth is; other filters do not read it.",
                ),
                make_input(
                    io.Boolean, "fast", default=False,
                    tooltip="Fewer steps in the earlier runs: 3 runs take two thirds of the time.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, iterations, filter, spatial_stop, temporal_stop, order, fast) -> io.NodeOutput:
        require_motion_model(model)
        chosen = FreeInitSettings(iterations, filter, spatial_stop, temporal_stop, order, fast)
        return io.NodeOutput(use_free_init(model, chosen))
