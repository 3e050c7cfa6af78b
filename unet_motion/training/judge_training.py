"""Training of the judge on drawn clips and on the autoencoder's reconstructions of them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..bundled.autoencoder import Autoencoder
from .data import ClipBatch, draw, sample_clips, triples
from .judge import Judge
from .runs import RunLog, decayed


@dataclass(frozen=True)
class JudgeRecipe:
    steps: int = 450
    batch: int = 32
    frames_per_clip: int = 4
    reconstructed: int = 192  # clips put through the autoencoder once and used again and again
    learning_rate: float = 2e-3
    seed: int = 21
    accuracy: float = 0.99  # gate, for each of shape, colour and motion


def weaker_motions(rng: np.random.Generator, clips: ClipBatch) -> ClipBatch:
    """Widen the drawn motions: a model's clip may move, grow or turn less than a drawn one, or drift a little."""

    def factor(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, len(clips))).float()

    drift = torch.from_numpy(rng.normal(0, 1.2, (len(clips), 2))).float()
    clips.travel = clips.travel * factor(0.4, 1.1)[:, None] + drift
    clips.growth = clips.growth * factor(0.45, 1.15) + torch.from_numpy(rng.normal(0, 0.04, len(clips))).float()
    clips.turn = clips.turn * factor(0.35, 1.3)
    return clips


def roughened(rng: np.random.Generator, pictures: torch.Tensor) -> torch.Tensor:
    """Noise and a brightness error, different for each clip (N, F, 3, H, W)."""
    strength = torch.from_numpy(rng.uniform(0, 0.05, (len(pictures), 1, 1, 1, 1))).float()
    offset = torch.from_numpy(rng.normal(0, 0.03, (len(pictures), 1, 3, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(pictures.shape, dtype=np.float32))
    return (pictures + strength * noise + offset).clamp(0, 1)


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, pictures: torch.Tensor) -> torch.Tensor:
    """Clips (N, F, 3, H, W) through the autoencoder."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = [autoencoder.decode(autoencoder.encode(part)).float() for part in pictures.flatten(0, 1).split(32)]
    return torch.cat(parts).clamp(0, 1).unflatten(0, pictures.shape[:2])


def judge_accuracy(judge: Judge, clips: ClipBatch, pictures: torch.Tensor) -> dict[str, float]:
    """Share of clips whose shape, colour and motion are named right."""
    verdict = judge.verdict(pictures)
    return {
        name: (getattr(verdict, name) == getattr(clips, name)).float().mean().item()
        for name in ("shape", "colour", "motion")
    }


def train_judge(autoencoder: Autoencoder, recipe: JudgeRecipe, log: RunLog) -> tuple[Judge, dict[str, float]]:
    """Train both classifiers; gives them and their worse accuracy on drawn and on reconstructed clips, by question."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=recipe.learning_rate, weight_decay=1e-3)
    every = np.concatenate([triples(False), triples(True)])
    pool = weaker_motions(rng, sample_clips(rng, recipe.reconstructed, every))
    log.write("judge", step=0, pool=len(pool))
    pool_pictures = torch.cat(
        [reconstruct(autoencoder, draw(pool[slice(i, i + 8)])[0]) for i in range(0, len(pool), 8)]
    )
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * decayed(step, recipe.steps)
        fresh = weaker_motions(rng, sample_clips(rng, recipe.batch, every))
        rows = torch.from_numpy(rng.integers(len(pool), size=recipe.batch // 2))
        pictures = roughened(rng, torch.cat([draw(fresh)[0], pool_pictures[rows]]))
        names = {k: torch.cat([getattr(fresh, k), getattr(pool, k)[rows]]) for k in ("shape", "colour", "motion")}
        picked = torch.from_numpy(rng.integers(pictures.shape[1], size=(len(pictures), recipe.frames_per_clip)))
        frames = pictures[torch.arange(len(pictures))[:, None], picked].flatten(0, 1)
        shape, colour = judge.frames(frames)
        again = lambda name: names[name].repeat_interleave(recipe.frames_per_clip)  # noqa: B023, E731
        losses = (
            F.cross_entropy(shape, again("shape")),
            F.cross_entropy(colour, again("colour")),
            F.cross_entropy(judge.motion(pictures), names["motion"]),
        )
        optimizer.zero_grad(set_to_none=True)
        sum(losses).backward()
        optimizer.step()
        if step % 50 == 0:
            log.write(
                "judge", step=step, **dict(zip(("shape", "colour", "motion"), (x.item() for x in losses), strict=True))
            )
    return judge.eval(), check_judge(judge, autoencoder, recipe, log)


def check_judge(judge: Judge, autoencoder: Autoencoder, recipe: JudgeRecipe, log: RunLog) -> dict[str, float]:
    """Accuracy on newly drawn clips of held-out triples, as drawn and through the autoencoder; the worse of the two."""
    clips = sample_clips(np.random.default_rng(recipe.seed + 1), 256, triples(held_out=True))
    drawn = draw(clips)[0]
    as_drawn = judge_accuracy(judge, clips, drawn)
    again = judge_accuracy(judge, clips[slice(96)], reconstruct(autoencoder, drawn[:96]))
    log.write("judge", step=recipe.steps, drawn=as_drawn, reconstructed=again)
    return {name: min(as_drawn[name], again[name]) for name in as_drawn}
