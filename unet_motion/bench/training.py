"""A training step of motion modules beside one of diffusers: the same weights, batch, noise, loss and optimizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..sampling import NoiseSchedule
from ..training.batch import Draw
from ..training.data.encoded import EncodedClips
from ..training.objective import Objective
from ..training.recipe import MotionRecipe
from ..training.trainer import MotionTrainer
from .cases import LIMITS, Bench, Row
from .measure import weigh
from .nets import TEXT_TOKENS, our_unet, relative_error, text_width_of, their_unet


class DiffusersLoop:
    """A training step as people write it with diffusers: freeze, noise, predict, AdamW.

    Args:
        unet: diffusers' `UNetMotionModel`; trained in place.
        schedule: of the noise.
        recipe: its learning rate, weight decay, clipping, checkpointing and precision.
    """

    def __init__(self, unet: Any, schedule: NoiseSchedule, recipe: MotionRecipe) -> None:
        from diffusers import DDPMScheduler

        self.unet, self.recipe = unet.train(), recipe
        unet.freeze_unet2d_params()
        if recipe.checkpointing:
            unet.enable_gradient_checkpointing()
        self.noise: Any = DDPMScheduler(trained_betas=betas(schedule))
        self.trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    def gradients(self, draw: Draw) -> float:
        """Leave the gradient of a batch's loss in the parameters; gives that loss."""
        device = self.unet.device
        clean, noise, times, text = (t.to(device) for t in (draw.clean, draw.noise, draw.timesteps, draw.text["text"]))
        noisy = self.noise.add_noise(clean, noise, times)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            # diffusers wants the text once per frame.
            output = self.unet(noisy.transpose(1, 2), times, text.repeat_interleave(clean.shape[1], dim=0)).sample
        loss = nn.functional.mse_loss(output.transpose(1, 2).float(), noise)
        loss.backward()
        return loss.item()

    def step(self, draw: Draw) -> float:
        """Take a step; gives its loss."""
        loss = self.gradients(draw)
        nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip)
        self.optimizer.step()
        return loss


def betas(schedule: NoiseSchedule):
    """The betas that give a schedule's alpha_bar, a numpy array."""
    levels = schedule.alphas_cumprod.double()
    return (1 - levels / torch.cat([levels.new_ones(1), levels[:-1]])).numpy()


def training_step(bench: Bench, size: str, frames: int, side: int, target: str, checkpointing: bool = False) -> Row:
    """A step of one clip; its loss and every gradient have to be those of diffusers before it is timed.

    Weights are in float32; in a run of 16 bits both compute in bfloat16.
    """
    ours = our_unet(size, bench.device, torch.float32)
    theirs = their_unet(ours, bench.device, torch.float32)
    recipe = MotionRecipe(
        steps=10**6, save_every=10**6, warmup=0, schedule="constant", learning_rate=1e-5, drop_prompt=0.0,
        checkpointing=checkpointing, bfloat16=bench.dtype != torch.float32,
    )  # fmt: skip
    schedule = NoiseSchedule.named()
    with tempfile.TemporaryDirectory() as folder:
        clips = made_up_clip(Path(folder) / "data", frames, side, text_width_of(ours.config))
        # Trained parameters get memory of their own here, so that each loop moves only its own.
        trainer = MotionTrainer(ours, clips, Objective(schedule), recipe, Path(folder) / "out", quiet=True)
        loop = DiffusersLoop(theirs, schedule, recipe)
        case = f"train motion modules, {size} 1x{frames}x{side}x{side}{', checkpointing' * checkpointing}"
        return compare(bench, case, trainer, loop, target)


def made_up_clip(folder: Path, frames: int, side: int, text_width: int) -> EncodedClips:
    """A data set of one random clip with its text."""
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(frames, 4, side, side, generator=generator)
    text = torch.randn(TEXT_TOKENS, text_width, generator=generator)
    folder.mkdir()
    save_file({"latents": clip, "text": text}, folder / "clip.safetensors")
    return EncodedClips(folder, frames)


def compare(bench: Bench, case: str, trainer: MotionTrainer, loop: DiffusersLoop, target: str) -> Row:
    """Check loss and gradients, then time both loops."""
    state = trainer.generator.get_state()
    draw = trainer.draw()
    limit = LIMITS[bench.dtype if bench.dtype == torch.float32 else torch.bfloat16]
    error = disagreement(trainer, loop, draw)
    if not error <= limit:
        return Row(case, "diffusers", float("nan"), error=error, note="loss or gradients differ: not timed")

    def step() -> None:
        trainer.generator.set_state(state)  # our step draws the same batch again
        trainer.train_step()

    def their_step() -> None:
        loop.step(draw)

    for untimed in (step, their_step):
        untimed()  # makes the optimizer's state; the steps that are weighed map the memory of both loops
    weights = [weigh(work, bench.device) for work in (step, their_step)]
    row = bench.measure(case, "diffusers", step, their_step, weights, target, more=2)
    row.error, row.flops = error, None
    if row.ours and row.theirs:
        row.note = f"{1 / row.ours:.3g} steps a second, in diffusers {1 / row.theirs:.3g}"
    return row


def disagreement(trainer: MotionTrainer, loop: DiffusersLoop, draw: Draw) -> float:
    """The largest relative difference of the losses and of the gradients of any parameter.

    Raises:
        ValueError: the loops do not train the same parameters.
    """
    mine, other = trainer.gradients([draw]), loop.gradients(draw)
    ours, theirs = gradients_of(trainer.trained), gradients_of(loop.trained)
    if ours.keys() != theirs.keys():
        raise ValueError(f"the loops train different parameters: {sorted(ours.keys() ^ theirs.keys())[:3]}.")
    return max([abs(mine - other) / abs(other), *(relative_error(ours[name], theirs[name]) for name in ours)])


def gradients_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}
