"""Training of the judge on drawn clips and on the autoencoder's reconstructions of them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...bundled.autoencoder import Autoencoder
from ..runs import RunLog, decayed
from .drawn_clips import ClipBatch, draw, sample_clips, triples
from .judge import Judge
from .precision import autocast


@dataclass(frozen=True)
class JudgeRecipe:
    steps: int = 700
    frames: int = 96  # newly drawn single frames a step, for shape and colour
    clips: int = 12  # newly drawn clips, for motion; as many again come from those put through the autoencoder
    reconstructed: int = 256  # clips put through the autoencoder once; a third of the single frames come from them
    tremble: float = 0.25  # most noise in their latents, changing from frame to frame: what a model leaves in them
    learning_rate: float = 2e-3
    seed: int = 21
    accuracy: float = 0.99  # gate, for each of shape, colour and motion
    check: int = 256  # clips of the gate as drawn; a third of them also as reconstructed


def weaker_motions(rng: np.random.Generator, clips: ClipBatch) -> ClipBatch:
    """Widen the drawn motions: a model's clip may move, grow or turn less than a drawn one, or drift a little."""

    def factor(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, len(clips))).float()

    drift = torch.from_numpy(rng.normal(0, 1.2, (len(clips), 2))).float()
    clips.travel = clips.travel * factor(0.4, 1.1)[:, None] + drift
    clips.growth = clips.growth * factor(0.45, 1.15) + torch.from_numpy(rng.normal(0, 0.04, len(clips))).float()
    clips.turn = clips.turn * factor(0.45, 1.3)
    return clips


def roughened(rng: np.random.Generator, pictures: torch.Tensor) -> torch.Tensor:
    """Noise and a brightness error, different for each clip (N, F, 3, H, W)."""
    strength = torch.from_numpy(rng.uniform(0, 0.05, (len(pictures), 1, 1, 1, 1))).float()
    offset = torch.from_numpy(rng.normal(0, 0.03, (len(pictures), 1, 3, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(pictures.shape, dtype=np.float32))
    return (pictures + strength * noise + offset).clamp(0, 1)


def trembling(rng: np.random.Generator, shape: torch.Size, most: float) -> torch.Tensor:
    """Noise for latents of clips (N, F, C, H, W): up to `most` strong, from another in each frame to one slow drift.

    Each clip's noise is drawn at 2 to F points in time and turned from one into the next, which keeps its variance.
    """
    noise = torch.empty(shape)
    for clip in noise:
        knots = torch.from_numpy(rng.standard_normal((rng.integers(2, len(clip) + 1), *clip.shape[1:]))).float()
        place = torch.linspace(0, len(knots) - 1, len(clip))
        before = place.long().clamp_max(len(knots) - 2)
        angle = ((place - before) * torch.pi / 2)[:, None, None, None]
        clip.copy_(rng.uniform(0, most) * (angle.cos() * knots[before] + angle.sin() * knots[before + 1]))
    return noise


@torch.no_grad()
def reconstruct(
    autoencoder: Autoencoder, pictures: torch.Tensor, rng: np.random.Generator | None = None, tremble: float = 0.0
) -> torch.Tensor:
    """Clips (N, F, 3, H, W) through the autoencoder; its latents `trembling` if there is an `rng`."""
    with autocast():
        latents = torch.cat([autoencoder.encode(part).float() for part in pictures.flatten(0, 1).split(32)])
        if rng is not None:
            clips = latents.unflatten(0, pictures.shape[:2])
            latents = (clips + trembling(rng, clips.shape, tremble)).flatten(0, 1)
        parts = [autoencoder.decode(part).float() for part in latents.split(32)]
    return torch.cat(parts).clamp(0, 1).unflatten(0, pictures.shape[:2])


def judge_accuracy(judge: Judge, clips: ClipBatch, pictures: torch.Tensor) -> dict[str, float]:
    """Share of clips whose shape, colour and motion are named right."""
    verdict = judge.verdict(pictures)
    return {
        name: (getattr(verdict, name) == getattr(clips, name)).float().mean().item()
        for name in ("shape", "colour", "motion")
    }


class JudgeTrainer:
    """Draws batches for both classifiers and steps them."""

    def __init__(self, autoencoder: Autoencoder, recipe: JudgeRecipe):
        torch.manual_seed(recipe.seed)
        self.recipe, self.rng, self.judge = recipe, np.random.default_rng(recipe.seed), Judge()
        self.optimizer = torch.optim.AdamW(self.judge.parameters(), lr=recipe.learning_rate, weight_decay=1e-3)
        self.every = np.concatenate([triples(False), triples(True)])
        self.pool = self.draw_parameters(recipe.reconstructed)
        chunks = (self.pool[slice(i, i + 8)] for i in range(0, len(self.pool), 8))
        self.pool_pictures = torch.cat(
            [reconstruct(autoencoder, draw(chunk)[0], self.rng, recipe.tremble).half() for chunk in chunks]
        )

    def draw_parameters(self, count: int) -> ClipBatch:
        return weaker_motions(self.rng, sample_clips(self.rng, count, self.every))

    def _from_pool(self, count: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.integers(len(self.pool), size=count))

    def frame_loss(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of shape and of colour on single frames, two thirds new, one third reconstructed."""
        fresh = self.draw_parameters(self.recipe.frames)
        phase = torch.from_numpy(self.rng.random((len(fresh), 1))).float()
        rows = self._from_pool(self.recipe.frames // 2)
        picked = torch.from_numpy(self.rng.integers(self.pool_pictures.shape[1], size=len(rows)))
        again = self.pool_pictures[rows, picked][:, None].float()
        frames = roughened(self.rng, torch.cat([draw(fresh, phase)[0], again]))[:, 0]
        shape, colour = self.judge.frames(frames)
        return (
            F.cross_entropy(shape, torch.cat([fresh.shape, self.pool.shape[rows]])),
            F.cross_entropy(colour, torch.cat([fresh.colour, self.pool.colour[rows]])),
        )

    def motion_loss(self) -> torch.Tensor:
        """Cross-entropy of motion on clips, half new, half reconstructed."""
        fresh, rows = self.draw_parameters(self.recipe.clips), self._from_pool(self.recipe.clips)
        clips = roughened(self.rng, torch.cat([draw(fresh)[0], self.pool_pictures[rows].float()]))
        return F.cross_entropy(self.judge.motion(clips), torch.cat([fresh.motion, self.pool.motion[rows]]))

    def train_step(self, step: int) -> dict[str, float]:
        """One optimizer step; gives the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * decayed(step, self.recipe.steps)
        shape, colour = self.frame_loss()
        losses = {"shape": shape, "colour": colour, "motion": self.motion_loss()}
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}


def train_judge(autoencoder: Autoencoder, recipe: JudgeRecipe, log: RunLog) -> tuple[Judge, dict[str, float]]:
    """Train both classifiers; gives them and their worse accuracy on drawn and on reconstructed clips, by question."""
    trainer = JudgeTrainer(autoencoder, recipe)
    for step in range(recipe.steps):
        losses = trainer.train_step(step)
        if step % 60 == 0:
            log.write("judge", step=step, **losses)
    judge = trainer.judge.eval()
    return judge, check_judge(judge, autoencoder, recipe, log)


def check_judge(judge: Judge, autoencoder: Autoencoder, recipe: JudgeRecipe, log: RunLog) -> dict[str, float]:
    """Accuracy on newly drawn clips of held-out triples, as drawn and through the autoencoder; the worse of the two."""
    clips = sample_clips(np.random.default_rng(recipe.seed + 1), recipe.check, triples(held_out=True))
    drawn = draw(clips)[0]
    third = max(1, recipe.check // 3)
    as_drawn = judge_accuracy(judge, clips, drawn)
    again = judge_accuracy(judge, clips[slice(third)], reconstruct(autoencoder, drawn[:third]))
    log.write("judge", step=recipe.steps, drawn=as_drawn, reconstructed=again)
    return {name: min(as_drawn[name], again[name]) for name in as_drawn}
