"""Nodes that load a motion UNet or put motion modules on an SD1.5 or SDXL model."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.config.unet import NORM_SCOPES
from ..unet_motion.formats import PositionOptions
from ..unet_motion.formats.merging import adjust_weights
from .host.checks import check_choice
from .host.files import paths
from .host.files.loading import file_stamp, load_motion_file, load_unet_model
from .host.model.apply import apply_motion_module
from .host.model.bundled import load_bundled_models
from .host.model.noise_schedules import BETA_SCHEDULES
from .schema import MotionModuleType, make_input, make_schema, model_input, model_output

NONE = "none"
NORM_SCOPE_TIP = (
    "Over which frames group norms take their statistics. auto: as the motion module was trained (recommended). The "
    "others force the rule of a family: v1 (resnets over all frames), v2 and v3 (each frame alone), sdxl and "
    "diffusers (motion modules over all frames). Costs nothing."
)
BETA_TIP = (
    "Noise schedule. auto: that of the motion module (sqrt_linear for SD1.5, which diffusers calls linear), unless a "
    "ModelSampling node has set one on the model. keep: the model's. linear: Stable Diffusion's and HotshotXL's. "
    "linear to 0.02: AnimateDiff's for SDXL. average: of sqrt_linear and linear. lcm: of a consistency model, "
    "distilled on 50 timesteps of linear, or of the one named behind it; lcm 100: on 100. Costs nothing."
)


NORM_SCOPE_CHOICES = ["auto", *NORM_SCOPES]
BETA_CHOICES = list(BETA_SCHEDULES)


POSITIONS = {
    "position_stretch": "1. Interpolate the position table to so many rows more: slower motion and longer clips.",
    "position_skip": "2. Drop so many rows at the start of the table.",
    "position_cap": "3. Keep at most so many rows; with position_skip this is a window of the table.",
    "position_interpolate": "4. Interpolate what is left to so many rows.",
    "position_skip_after": "5. Drop so many rows at the start of that.",
}
"""Changes of the position table, in the order in which they are made."""


def _position_input(name: str, text: str):
    tooltip = f"{text} 0 changes nothing. Costs nothing."
    return make_input(io.Int, name, default=0, min=0, max=512, optional=True, advanced=True, tooltip=tooltip)


def _weight_inputs() -> list:
    more = {"optional": True, "advanced": True}
    return [
        make_input(
            io.Float, "weights_times", default=1.0, min=-10.0, max=10.0, step=0.001, **more,
            tooltip="Every weight times this, after the position table was changed. 1 changes nothing. Costs nothing.",
        ),
        make_input(
            io.Float, "weights_plus", default=0.0, min=-10.0, max=10.0, step=0.001, **more,
            tooltip="Then this is added to every weight. 0 changes nothing. Costs nothing.",
        ),
        make_input(
            io.String, "weights_of", default="", **more,
            tooltip="Of which weights, between commas: attention, positions, or parts of names such as to_q. Empty: "
            "all.",
        ),
    ]  # fmt: skip


def _norm_scope_input():
    return make_input(io.Combo, "norm_scope", options=NORM_SCOPE_CHOICES, default="auto", tooltip=NORM_SCOPE_TIP)


def _beta_input():
    return make_input(io.Combo, "beta_schedule", options=BETA_CHOICES, default="auto", tooltip=BETA_TIP)


def _check(norm_scope: str, beta_schedule: str) -> None:
    check_choice("norm_scope", norm_scope, NORM_SCOPE_CHOICES)
    check_choice("beta_schedule", beta_schedule, BETA_CHOICES)


class LoadBundled(io.ComfyNode):
    """The small trained model that comes with the pack."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_LoadBundled",
            category="loading",
            display_name="Load Bundled Motion Model",
            description=(
                "Loads the small text-to-video model that comes with the pack: 64x64 pixels, 16 frames, at most 32, "
                "prompts such as 'a red star moving left'. Needs no download and runs on a CPU."
            ),
            search_aliases=["animatediff", "text to video", "t2v", "demo", "example", "animation"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The motion UNet; works with every core sampler."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder, of a small vocabulary."),
                io.Vae.Output(display_name="vae", tooltip="Its autoencoder: 8 pixels to a latent, 4 channels."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_bundled_models())


class LoadUNet(io.ComfyNode):
    """A base UNet from a file, with motion modules if wanted."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_LoadUNet",
            category="loading",
            display_name="Load Motion UNet",
            description="Loads the UNet of an SD1.5 checkpoint or a diffusers folder together with motion modules.",
            search_aliases=["animatediff loader", "UNetMotionModel", "load checkpoint", "evolved"],
            inputs=[
                make_input(
                    io.Combo, "unet_name", options=paths.list_unets(),
                    tooltip="File in diffusion_models or checkpoints, or folder in diffusers; recognised by its "
                    "content. An SD1.5 UNet takes 1.7 GB in fp16.",
                ),
                make_input(
                    io.Combo, "motion_module", options=[NONE, *paths.list_motion_modules()], default=NONE,
                    tooltip="File in animatediff_models (v1, v2, v3 or diffusers adapter), 0.8 to 0.9 GB in fp16. "
                    "none: for a UNet file that already holds its motion modules.",
                ),
                _norm_scope_input(),
                _beta_input(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The motion UNet; works with every core sampler.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, unet_name, motion_module=NONE, **_):
        motion = None if motion_module == NONE else file_stamp(paths.find_motion_module(motion_module))
        return [file_stamp(paths.find_unet(unet_name)), motion]

    @classmethod
    def execute(cls, unet_name, motion_module, norm_scope, beta_schedule) -> io.NodeOutput:
        _check(norm_scope, beta_schedule)
        motion = None if motion_module == NONE else paths.find_motion_module(motion_module)
        return io.NodeOutput(load_unet_model(paths.find_unet(unet_name), motion, norm_scope, beta_schedule))


class LoadMotionModule(io.ComfyNode):
    """Motion modules from a file."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_LoadMotionModule",
            category="loading",
            display_name="Load Motion Module",
            description=(
                "Loads motion modules of AnimateDiff, HotshotXL, AnimateLCM, AnimateLCM-I2V or PIA, or a diffusers "
                "adapter."
            ),
            search_aliases=["animatediff", "load animatediff model", "motion adapter", "motion model", "evolved"],
            inputs=[
                make_input(
                    io.Combo, "motion_module", options=paths.list_motion_modules(),
                    tooltip="File in models/animatediff_models; recognised by its content, not by its name. Takes "
                    "0.8 to 0.9 GB of memory in fp16.",
                ),
                *(_position_input(name, text) for name, text in POSITIONS.items()),
                *_weight_inputs(),
            ],
            outputs=[MotionModuleType.Output(display_name="motion_module", tooltip="For Apply Motion Module.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, motion_module, **_):
        return file_stamp(paths.find_motion_module(motion_module))

    @classmethod
    def execute(
        cls, motion_module, weights_times=1.0, weights_plus=0.0, weights_of="", **positions
    ) -> io.NodeOutput:  # fmt: skip
        options = PositionOptions(**{name.removeprefix("position_"): count for name, count in positions.items()})
        loaded = load_motion_file(paths.find_motion_module(motion_module), options)
        names = [name.strip() for name in weights_of.split(",") if name.strip()]
        return io.NodeOutput(adjust_weights(loaded, weights_times, weights_plus, names))


class ApplyMotionModule(io.ComfyNode):
    """Motion modules on any SD1.5 or SDXL MODEL."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_ApplyMotionModule",
            category="motion",
            display_name="Apply Motion Module",
            description=(
                "Puts motion modules into an SD1.5 or SDXL model, so that the images of a batch become the frames of a "
                "clip. LoRAs and other patches of the model stay, before and after this node."
            ),
            search_aliases=["animatediff", "apply animatediff model", "use evolved sampling", "use motion module"],
            inputs=[
                model_input("An SD1.5 or SDXL model from any loader, with any LoRAs. Weights are shared, not copied."),
                make_input(
                    MotionModuleType, "motion_module",
                    tooltip="From Load Motion Module. Adds about 40 % of computation to a step.",
                ),
                _norm_scope_input(),
                _beta_input(),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, motion_module, norm_scope, beta_schedule) -> io.NodeOutput:
        _check(norm_scope, beta_schedule)
        return io.NodeOutput(apply_motion_module(model, motion_module, norm_scope, beta_schedule))
