"""Steps of training motion modules beside a loop of diffusers: the same weights, batches, losses and optimizer.

python -m unet_motion.bench.training --sizes small --frames 8 --side 16
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ..sampling import NoiseSchedule
from ..training.draws import Draw
from ..training.encoded_clips import EncodedClips
from ..training.motion_loop import MotionTrainer
from ..training.motion_recipe import MotionRecipe
from ..training.objective import Objective
from .measure import peak_memory, take_turns
from .nets import WIDTHS, our_unet, their_unet

LIMIT = 1e-4
"""Largest relative difference between the losses of the two loops that may be compared in time."""
TOKENS = 77


@dataclass
class TrainingRow:
    """One comparison; seconds a step, bytes above what was held before."""

    case: str
    ours: float
    theirs: float
    ratio: tuple[float, float, float]
    our_memory: int
    their_memory: int
    loss_difference: float


class DiffusersLoop:
    """A training step as people write it with diffusers: freeze, noise, predict, AdamW."""

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule, rate: float, checkpointing: bool) -> None:
        from diffusers import DDPMScheduler

        self.unet = unet.train()
        unet.freeze_unet2d_params()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        self.noise = DDPMScheduler(1000, trained_betas=betas(schedule))
        self.parameters = [p for p in unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.01)

    def step(self, draw: Draw) -> float:
        """Take a step; gives its loss."""
        device = next(self.unet.parameters()).device
        clean, noise, times = (t.to(device) for t in (draw.clean, draw.noise, draw.timesteps))
        noisy = self.noise.add_noise(clean, noise, times)
        frames = clean.shape[1]
        text = draw.text["text"].to(device).repeat_interleave(frames, dim=0)
        output = self.unet(noisy.transpose(1, 2), times, text).sample.transpose(1, 2)
        loss = nn.functional.mse_loss(output.float(), noise.float())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


def betas(schedule: NoiseSchedule):
    """The betas that give a schedule's alpha_bar."""
    levels = schedule.alphas_cumprod.double()
    return (1 - levels / torch.cat([levels.new_ones(1), levels[:-1]])).numpy()


def compare(size: str, frames: int, side: int, checkpointing: bool, device: torch.device, rounds: int) -> TrainingRow:
    """Time and weigh both loops.

    Raises:
        ValueError: their losses differ, so that no ratio is given.
    """
    ours = our_unet(size, device, torch.float32)
    # diffusers takes its motion norms over all frames and its resnets' over each: so does this one here.
    ours.set_norm_scope("frame", "clip")
    theirs = their_unet(ours, device, torch.float32)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()), assign=True)
    schedule = NoiseSchedule.named()
    recipe = MotionRecipe(
        steps=10**6, warmup=0, schedule="constant", drop_prompt=0.0, learning_rate=1e-5, checkpointing=checkpointing,
        save_every=10**6,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        generator = torch.Generator().manual_seed(1)
        clip = torch.randn(frames, 4, side, side, generator=generator)
        text = torch.randn(TOKENS, ours.config.cross_attention_dim, generator=generator)
        save_file({"latents": clip, "text": text}, data / "clip.safetensors")
        clips = EncodedClips(data, frames)
        trainer = MotionTrainer(ours, clips, Objective(schedule), recipe, Path(folder) / "out", quiet=True)
        loop = DiffusersLoop(theirs, schedule, recipe.learning_rate, checkpointing)
        return _timed(f"{size}, 1x{frames}x{side}x{side}{', checkpointing' * checkpointing}", trainer, loop, rounds)


def _timed(case: str, trainer: MotionTrainer, loop: DiffusersLoop, rounds: int) -> TrainingRow:
    def both() -> tuple[Callable[[], float], Callable[[], float]]:
        state = trainer.generator.get_state()
        draw = trainer.draw()
        trainer.generator.set_state(state)  # our step draws the same batch again
        return lambda: trainer.train_step()["loss"], lambda: loop.step(draw)

    worst = 0.0
    for _ in range(3):
        ours, theirs = (step() for step in both())
        worst = max(worst, abs(ours - theirs) / theirs)
    if not worst <= LIMIT:
        raise ValueError(f"{case}: the losses differ by {worst:.1e}, expected at most {LIMIT:.0e}.")
    ours, theirs = both()
    device = trainer.unet.device
    turns = take_turns({"ours": ours, "theirs": theirs}, device, rounds)
    memory = [peak_memory(step, device) for step in (ours, theirs)]
    ratio = turns.ratio("theirs", "ours")
    return TrainingRow(case, turns.median("ours"), turns.median("theirs"), ratio, *memory, worst)


def table(rows: Sequence[TrainingRow]) -> str:
    """The rows as Markdown."""
    lines = [
        "| motion modules, AdamW, float32 | steps/s, ours | steps/s, diffusers | ratio (range) | peak, ours | peak, "
        "diffusers | losses differ by |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        middle, low, high = row.ratio
        lines.append(
            f"| {row.case} | {1 / row.ours:.3g} | {1 / row.theirs:.3g} | {middle:.2f} ({low:.2f} to {high:.2f}) | "
            f"{row.our_memory / 2**20:.0f} MiB | {row.their_memory / 2**20:.0f} MiB | {row.loss_difference:.0e} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=tuple(WIDTHS), default=["small"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=16, help="of the latents")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = [
        compare(size, args.frames, args.side, checkpointing, torch.device(args.device), args.rounds)
        for size in args.sizes
        for checkpointing in (False, True)
    ]
    print(json.dumps([asdict(row) for row in rows]) if args.json else table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
