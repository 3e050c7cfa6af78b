"""The node that trains a motion LoRA."""

from __future__ import annotations

from comfy_api.latest import io

from .host.training.data import Shown, folder_stamp
from .host.training.run import PRECISIONS, Choice, train_motion_lora
from .schema import make_input, make_schema, model_input

LORA_OUTPUT = "For core's Load LoRA Model. The same is in a file of the output folder."
LOSS_OUTPUT = "The loss of every step, for core's Plot Loss Graph."


def _data_inputs() -> list:
    return [
        make_input(
            io.Image, "images", optional=True,
            tooltip="Clips to learn from: frames_per_clip frames each, one behind the other, sides in multiples of 8. "
            "Or give a folder.",
        ),
        make_input(
            io.String, "folder", default="", optional=True,
            tooltip="Instead of images: videos, GIFs, WebPs and folders of pictures in a folder of ComfyUI's input "
            "folder, or of one that training_clips in extra_model_paths.yaml names.",
        ),
        make_input(
            io.Int, "width", default=512, min=8, max=4096, step=8, optional=True, advanced=True,
            tooltip="Only for a folder: its clips are scaled and cut to this width. Time and memory grow in "
            "proportion.",
        ),
        make_input(
            io.Int, "height", default=512, min=8, max=4096, step=8, optional=True, advanced=True,
            tooltip="Only for a folder: its clips are scaled and cut to this height. Time and memory grow in "
            "proportion.",
        ),
        make_input(
            io.Float, "fps", default=0.0, min=0.0, max=1000.0, step=0.01, optional=True, advanced=True,
            tooltip="Only for a folder: frames a second that are taken of its videos; 0 takes every frame.",
        ),
    ]  # fmt: skip


def _more_inputs() -> list:
    return [
        make_input(
            io.Int, "batch_size", default=1, min=1, max=64, optional=True, advanced=True,
            tooltip="Clips in a step. Time and memory grow in proportion.",
        ),
        make_input(
            io.Float, "noise_power", default=0.0, min=0.0, max=4.0, step=0.05, optional=True, advanced=True,
            tooltip="Weight of strong noise, where motion is decided: 0 all levels alike, 1 by what is left of the "
            "clip. Costs nothing.",
        ),
        make_input(
            io.Float, "debias", default=0.0, min=0.0, max=10.0, step=0.1, optional=True, advanced=True,
            tooltip="Weight of MotionDirector's loss of what differs between the frames, so that the look of the clips "
            "counts less: 0 off, 1 usual. Costs nothing.",
        ),
        make_input(
            io.Float, "drop_prompt", default=0.1, min=0.0, max=0.99, step=0.01, optional=True, advanced=True,
            tooltip="Share of the steps without the caption, which cfg above 1 needs. Costs nothing.",
        ),
        make_input(
            io.Boolean, "checkpointing", default=False, optional=True, advanced=True,
            tooltip="Compute layers again instead of keeping their results: about a quarter of the memory, a third "
            "more time, the same LoRA.",
        ),
        make_input(
            io.Combo, "precision", options=list(PRECISIONS), default="auto", optional=True, advanced=True,
            tooltip="What is computed in. auto: bfloat16 on cards that are fast in it, else float32. bfloat16 takes "
            "half the memory. The LoRA itself is float32.",
        ),
        make_input(
            io.Int, "sample_every", default=100, min=0, max=100000, optional=True, advanced=True,
            tooltip="Steps between the clips that are shown beside the loss; 0 draws one at the end only. Each takes "
            "as long as 20 sampling steps with cfg.",
        ),
    ]  # fmt: skip


class TrainMotionLoRA(io.ComfyNode):
    """A motion LoRA from clips, ready for use in the same graph."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_TrainMotionLoRA",
            category="training",
            display_name="Train Motion LoRA",
            description=(
                "Trains a motion LoRA on clips that share a motion, and saves it. Shows the loss and a sample while it "
                "runs; stopped by hand, it saves what it has learned."
            ),
            search_aliases=["train", "finetune", "motion lora", "motiondirector"],
            inputs=[
                model_input("A motion UNet of this pack. It is copied: what is put in stays as it is."),
                make_input(io.Clip, "clip", tooltip="Of the same loader; reads the captions."),
                make_input(io.Vae, "vae", tooltip="Of the same loader; encodes the clips and decodes the samples."),
                make_input(
                    io.String, "captions", default="", multiline=True,
                    tooltip="What the clips show: one line for all, or one for each in its order. Empty takes the "
                    "folder's own captions, and none for images.",
                ),
                make_input(
                    io.Int, "frames_per_clip", default=16, min=2, max=1024,
                    tooltip="Frames of a clip, at most the motion module's positions; 16 is usual. Of longer files in "
                    "a folder each step takes another part. Time and memory grow in proportion.",
                ),
                make_input(
                    io.Int, "steps", default=300, min=1, max=100000,
                    tooltip="Steps of the optimizer; 100 to 500 for one clip. Time grows in proportion.",
                ),
                make_input(
                    io.Int, "rank", default=4, min=1, max=1024,
                    tooltip="Width of the LoRA: 4 to 32 is usual; more learns more, of the look of the clips too.",
                ),
                make_input(
                    io.Float, "learning_rate", default=0.0005, min=0.000001, max=1.0, step=0.000001, round=False,
                    tooltip="How far a step goes: 0.0001 to 0.001 for SD1.5 and SDXL, 0.01 for the bundled model. It "
                    "falls to 0 at the last step.",
                ),
                make_input(
                    io.Int, "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Start of all random numbers; the same seed and inputs give the same LoRA.",
                ),
                make_input(
                    io.String, "filename_prefix", default="loras/UNetMotion_motion_lora",
                    tooltip="Start of the file's name in ComfyUI's output folder; a number follows. Files in its loras "
                    "folder are offered by Load Motion LoRA.",
                ),
                *_data_inputs(),
                *_more_inputs(),
            ],
            outputs=[
                io.LoraModel.Output(display_name="lora", tooltip=LORA_OUTPUT),
                io.LossMap.Output(display_name="loss", tooltip=LOSS_OUTPUT),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder="", **_):
        return folder_stamp(folder) if folder else None

    @classmethod
    def execute(
        cls, model, clip, vae, captions, frames_per_clip, steps, rank, learning_rate, seed, filename_prefix,
        images=None, folder="", width=512, height=512, fps=0.0, batch_size=1, **more,
    ) -> io.NodeOutput:  # fmt: skip
        shown = Shown(images, folder.strip(), captions, frames_per_clip, (width, height), fps)
        choice = Choice(steps, rank, learning_rate, seed, filename_prefix, batch_size, **more)
        lora, loss, picture = train_motion_lora(model, clip, vae, shown, choice)
        return io.NodeOutput(lora, loss, ui=picture)
