"""Training a motion LoRA on a MODEL inside ComfyUI, which shows it, counts its memory and may stop it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import torch
from torch import Tensor

from ....unet_motion.lora.saving import save_lora
from ....unet_motion.training.data.in_memory import HeldClips
from ....unet_motion.training.lora import LoraSettings, TrainableLora
from ....unet_motion.training.lora_trainer import LoraTrainer
from ....unet_motion.training.memory import MemoryEstimate, estimate_memory
from ....unet_motion.training.objective import Objective
from ....unet_motion.training.provenance import made
from ....unet_motion.training.recipe import MotionRecipe
from ....unet_motion.training.watchers.validation import Validation
from ..checks import check_choice, require_motion_model
from ..files.outputs import new_output
from ..model.build import UNET_PREFIX
from .data import ModelEncoder, Shown, encoded_clips, read_clips
from .frozen import bare_unet, frozen_unet, schedule_of
from .view import TrainingView

PRECISIONS = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
SUFFIX = ".safetensors"
FAR_BELOW = 0.5
"""Share of the estimate, which is right to about a half, that must be free."""


@dataclass(frozen=True)
class Choice:
    """What the node asks for beside the data; see `MotionRecipe` and `LoraSettings`.

    Attributes:
        prefix: of the file's name in ComfyUI's output folder.
        precision: one of `PRECISIONS`.
        sample_every: steps between samples; 0 makes one at the end only.
    """

    steps: int
    rank: int
    learning_rate: float
    seed: int
    prefix: str = "loras/UNetMotion_motion_lora"
    batch: int = 1
    noise_power: float = 0.0
    debias: float = 0.0
    drop_prompt: float = 0.1
    checkpointing: bool = False
    precision: str = "auto"
    sample_every: int = 100

    def recipe(self, dtype: torch.dtype) -> MotionRecipe:
        """The choices as a recipe of the trainer.

        Raises:
            ValueError: a number out of its range.
        """
        if self.sample_every < 0:
            raise ValueError(f"`sample_every` is {self.sample_every}, expected at least 0.")
        names = ("steps", "learning_rate", "seed", "batch", "noise_power", "drop_prompt", "checkpointing")
        return MotionRecipe(
            **{name: getattr(self, name) for name in names}, bfloat16=dtype == torch.bfloat16,
            save_every=min(100, max(10, self.steps // 10)),
        )  # fmt: skip

    def dtype(self, device: torch.device) -> torch.dtype:
        """What is computed in on a device."""
        check_choice("precision", self.precision, list(PRECISIONS))
        if (chosen := PRECISIONS[self.precision]) is not None:
            return chosen
        fast = device.type != "cpu" and mm.should_use_bf16(device)
        return torch.bfloat16 if fast else torch.float32


def train_motion_lora(model: Any, clip: Any, vae: Any, shown: Shown, choice: Choice) -> tuple[dict, dict, Any]:
    """Train and save a motion LoRA; the MODEL stays as it is.

    Returns:
        The LoRA as core's LORA_MODEL, its losses as core's LOSS_MAP, and what the page shows on the node.

    Raises:
        ValueError: an input that does not fit, too little memory, or a loss that is not finite.
        OSError: no such folder, or the LoRA could not be written.
        InterruptProcessingException: the page stopped it; what was trained is saved.
    """
    device = mm.get_torch_device()
    dtype = choice.dtype(device)
    settings, recipe = LoraSettings(choice.rank), choice.recipe(dtype)
    config = require_motion_model(model).core.config
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"`model` takes {config.in_channels} channels for latents of {config.out_channels}, expected a UNet "
            "without a mask or a first picture of its own."
        )
    rows = config.motion_max_seq_length
    if shown.frames > rows:
        raise ValueError(
            f"`frames_per_clip` is {shown.frames}, expected at most {rows}, the motion module's positions."
        )
    settings.check(bare_unet(config))
    found = read_clips(shown)
    new_output(choice.prefix, SUFFIX)  # hours before it is written
    encoder = ModelEncoder(model, clip, vae)
    clips = encoded_clips(found, shown.frames, encoder)
    # Nodes run where nothing can be differentiated.
    with torch.inference_mode(False), torch.enable_grad(), _temporary_folder() as folder:
        objective = Objective(schedule_of(model), noise_power=recipe.noise_power)
        _make_room(_estimate(config, settings, clips, recipe, dtype), device)
        unet = frozen_unet(model, device, dtype)
        unet.conv_in.register_forward_pre_hook(lambda *_: mm.throw_exception_if_processing_interrupted())
        view = TrainingView(recipe.steps, choice.sample_every, _sampler(clips, encoder, folder))
        lora = TrainableLora(unet, settings, recipe.seed)
        trainer = LoraTrainer(
            lora, unet, clips, objective, recipe, folder, {"base": "a MODEL in ComfyUI"}, quiet=True,
            debias=choice.debias, watchers=[view],
        )  # fmt: skip
        _run(trainer, choice.prefix)
        return _for_core(lora), {"loss": list(view.losses)}, view.result()


def _run(trainer: LoraTrainer, prefix: str) -> None:
    """Train and save, also where the run ends early."""
    try:
        trainer.run()
    except FloatingPointError as error:
        kept = trainer.path.is_file()
        end = f"the LoRA of step {trainer.step} is in {_save(trainer, prefix)}" if kept else "nothing was saved"
        sentence = str(error.__context__ or error).rstrip(".")
        raise ValueError(f"{sentence}; try a lower `learning_rate` ({end}).") from None
    except BaseException:  # an interruption, or memory that ran out
        if trainer.step:
            path = _save(trainer, prefix)
            logging.warning("Train Motion LoRA ended after %d steps; %s is what it learned.", trainer.step, path)
        raise
    logging.info("Train Motion LoRA wrote %s.", _save(trainer, prefix))


def _save(trainer: LoraTrainer, prefix: str) -> str:
    """Write a new file in ComfyUI's output folder, with AnimateDiff's names."""
    path = new_output(prefix, SUFFIX).path
    save_lora(trainer.lora.tensors(), path, "original", made(trainer, "a motion LoRA trained in ComfyUI"))
    return path


def _for_core(lora: TrainableLora) -> dict[str, Tensor]:
    """By the names that core's Load LoRA Model finds in a MODEL of this pack."""
    found = {}
    for path, (down, up) in lora.tensors().items():
        for half, value in (("down", down), ("up", up)):
            found[f"{UNET_PREFIX}motion.{path}.lora_{half}.weight"] = value.cpu()
    return found


def _sampler(clips: HeldClips, encoder: ModelEncoder, folder: Path):
    """trainer -> what the model draws by the first clip's caption, always from the same noise."""
    shape = (clips.options.frames, *clips.latents[0]["latents"].shape[1:])
    texts, empty = clips.texts[:1], clips.empty_text()
    validation = Validation(folder, 1, texts, empty, shape)
    return lambda trainer: encoder.decoded(validation.sample(trainer, texts[0], 0))


def _estimate(config: Any, settings: LoraSettings, clips: HeldClips, recipe: MotionRecipe, dtype) -> MemoryEstimate:
    size = max((tuple(entry["latents"].shape[2:]) for entry in clips.latents), key=lambda size: size[0] * size[1])
    rows = recipe.batch * clips.options.frames
    return estimate_memory(bare_unet(config), settings, rows, size, dtype, recipe.checkpointing)


def _make_room(needed: MemoryEstimate, device: torch.device) -> None:
    """Let ComfyUI unload other models, and say what the run will take.

    Raises:
        ValueError: far too little is free.
    """
    mm.free_memory(needed.total, device)
    mm.soft_empty_cache()
    free = mm.get_free_memory(device)
    logging.info("Train Motion LoRA needs about %s; %.0f MB are free on %s.", needed, free / 2**20, device)
    if free < FAR_BELOW * needed.total:
        raise ValueError(
            f"training needs about {needed}, but only {free / 2**20:,.0f} MB are free on {device}: lower "
            "`frames_per_clip`, `batch_size` or the size of the clips, or turn `checkpointing` on."
        )


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """For the run's checkpoints."""
    place = folder_paths.get_temp_directory()
    os.makedirs(place, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unet_motion_", dir=place) as name:
        yield Path(name)
