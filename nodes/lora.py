"""The nodes that load LoRAs."""

from __future__ import annotations

from comfy_api.latest import io

from .host.curves import ACCEPTED, read_amount, read_curves
from .host.files import paths
from .host.files.loading import file_stamp
from .host.lora import load_lora, load_motion_lora, lora_hooks
from .schema import make_input, make_schema, model_input, model_output


class LoadLoRA(io.ComfyNode):
    """A LoRA of any naming on a MODEL."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_LoadLoRA",
            category="loading",
            display_name="Load LoRA (motion)",
            description=(
                "Puts a LoRA on a model. Knows PEFT and diffusers names, which core's Load LoRA leaves out for SD1.5, "
                "kohya's names and motion LoRAs, and says how many layers of the file it found in the model."
            ),
            search_aliases=["lora", "peft", "motion lora"],
            inputs=[
                model_input("A motion UNet, or the SD1.5 model before Apply Motion Module for LoRAs of image layers."),
                make_input(
                    io.Combo, "lora_name", options=paths.list_loras(),
                    tooltip="File in loras or animatediff_motion_lora; recognised by its content. A file with "
                    "layers that do not fit the model is refused.",
                ),
                _strength(
                    "How much of the change: 0 none, 1 as trained, negative the opposite; 0.5 to 1 is "
                    "usual. Costs a moment when the model is loaded and nothing per step."
                ),
                make_input(
                    io.Boolean, "allow_partial", default=False, optional=True, advanced=True,
                    tooltip="Use what fits of a file of which some layers do not fit the model; the log names those. "
                    "Off: such a file is refused.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_):
        return file_stamp(paths.find_lora(lora_name))

    @classmethod
    def execute(cls, model, lora_name, strength, allow_partial=False) -> io.NodeOutput:
        return io.NodeOutput(load_lora(model, paths.find_lora(lora_name), strength, allow_partial))


def _motion_lora_file():
    return make_input(
        io.Combo, "lora_name", options=paths.list_motion_loras(),
        tooltip="File in animatediff_motion_lora or loras; recognised by its content. A file with layers that do not "
        "fit the model is refused. Those marked (bundled) are for the bundled model.",
    )  # fmt: skip


def _strength(tooltip: str):
    return make_input(io.Float, "strength", default=1.0, min=-100.0, max=100.0, step=0.01, tooltip=tooltip)


def _motion_lora_inputs() -> list:
    """The file and its strength."""
    return [
        model_input("A motion UNet, or what an earlier Load Motion LoRA gave."),
        _motion_lora_file(),
        _strength(
            "How much of the motion: 0 none, 1 as trained, negative the opposite; 0.5 to 1 is usual. "
            "Multiplies the two below. Costs a moment when the model is loaded and nothing per step."
        ),
        make_input(
            io.String, "strength_over_steps", default="", optional=True,
            tooltip="Share of the sampling : strength, such as 0:1, 0.5:0.3; 0 is the first step and 1 the "
            "last, straight lines between, or behind a strength hold, smooth or monotone. Empty is 1 "
            "throughout. Costs a little time in every step.",
        ),
        make_input(
            io.String, "strength_over_frames", default="", optional=True,
            tooltip="Frame : strength, such as 0:0, 15:1; 0 is the first frame and -1 the last, or a share "
            "such as 50%; straight lines between, or hold, smooth or monotone. Empty is 1 for every frame. "
            "Costs a little time in every step.",
        ),
        make_input(
            io.Boolean, "allow_partial", default=False, optional=True, advanced=True,
            tooltip="Use what fits of a file of which some layers do not fit the model; the log names those. "
            "Off: such a file is refused.",
        ),
        make_input(
            io.MultiType, "strength_curve", types=ACCEPTED, optional=True,
            tooltip="Multiplied with strength. A curve over frames or steps, core's CURVE, or a list of "
            "numbers, one for each frame.",
        ),
    ]  # fmt: skip


class LoadMotionLoRA(io.ComfyNode):
    """A motion LoRA on a MODEL, with a strength that may change over the steps and the frames."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_LoadMotionLoRA",
            category="loading",
            display_name="Load Motion LoRA",
            description=(
                "Puts a motion LoRA on a motion UNet, such as a pan or a zoom. Several in a row add up. Its strength "
                "may rise and fall during the sampling, and from frame to frame."
            ),
            search_aliases=["motion lora", "camera", "pan", "zoom", "motiondirector"],
            inputs=_motion_lora_inputs(),
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_):
        return file_stamp(paths.find_motion_lora(lora_name))

    @classmethod
    def execute(
        cls, model, lora_name, strength, strength_over_steps="", strength_over_frames="", allow_partial=False,
        strength_curve=None,
    ) -> io.NodeOutput:  # fmt: skip
        number, own = read_amount("strength", strength)
        texts = strength_over_steps, strength_over_frames
        curves = [*own, *read_curves("strength_curve", strength_curve)]
        path = paths.find_motion_lora(lora_name)
        return io.NodeOutput(load_motion_lora(model, path, number, *texts, allow_partial, curves))


class MotionLoRAHook(io.ComfyNode):
    """A LoRA for some of the conditionings, by core's hooks."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_LoRAHook",
            category="loading",
            display_name="LoRA Hook (motion)",
            description="A LoRA as core's hooks: for a prompt, for a part of the picture, or for a stretch of frames.",
            search_aliases=["create hook lora", "motion lora hook", "scheduled lora", "lora keyframes"],
            inputs=[
                model_input("The model that will be sampled; only its names are read."),
                _motion_lora_file(),
                _strength("How much of the change: 0 none, 1 as trained, negative the opposite."),
                make_input(
                    io.Hooks, "prev_hooks", optional=True,
                    tooltip="Hooks that act beside this one, such as those of another LoRA.",
                ),
            ],
            outputs=[
                io.Hooks.Output(
                    display_name="hooks",
                    tooltip="For core's nodes that set hooks on conditionings, with a mask or not.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_):
        return file_stamp(paths.find_motion_lora(lora_name))

    @classmethod
    def execute(cls, model, lora_name, strength, prev_hooks=None) -> io.NodeOutput:
        hooks = lora_hooks(model, paths.find_motion_lora(lora_name), strength)
        return io.NodeOutput(hooks if prev_hooks is None else prev_hooks.clone_and_combine(hooks))
