"""Training of the autoencoder on drawn frames, and then of its decoder alone on the frames that are hard to draw."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F

from ...bundled.autoencoder import Autoencoder
from ..runs import Average, RunLog, damage_named, decayed, load_state, rng_state, save_whole, set_rng_state
from .drawn_clips import CELL, MOTIONS, ClipBatch, draw, sample_clips, triples
from .outline_judge import frame_shapes
from .precision import autocast


@dataclass(frozen=True)
class AutoencoderRecipe:
    steps: int = 2700
    batch: int = 16
    learning_rate: float = 1.5e-3
    latent_noise: float = 0.10  # makes the decoder forgive the small errors of a sampled latent
    spread_weight: float = 0.05  # pulls each latent channel to mean 0, variance 1
    any_background: float = 0.3  # share of frames on a background of any brightness
    seed: int = 11
    save_every: int = 100
    check: int = 128  # held-out pictures looked at in the end


@dataclass(frozen=True)
class DecoderRecipe:
    """The decoder is trained further while the encoder stays: latents keep their meaning, outlines become sharper."""

    steps: int = 4800
    batch: int = 16
    learning_rate: float = 1e-3
    latent_noise: float = 0.10
    any_background: float = 0.15
    near: float = 0.7  # share of the loss that lies on the shape and around it
    margin: int = 4  # how many pixels around
    favoured: Mapping[str, int] = field(default_factory=lambda: {"growing": 4, "shrinking": 4, "spinning": 3})
    seed: int = 7
    save_every: int = 100
    check: int = 128  # outlines, and held-out pictures, looked at in the end


def sample_frames(
    rng: np.random.Generator, count: int, any_background: float = 0.0, held_out: bool = False
) -> torch.Tensor:
    """Single frames (count, 3, 64, 64) of clips at random phases."""
    clips = sample_clips(rng, count, triples(held_out))
    _brighten(rng, clips, any_background)
    phase = torch.from_numpy(rng.random((count, 1))).float()
    return draw(clips, phase)[0][:, 0]


def _brighten(rng: np.random.Generator, clips: ClipBatch, share: float) -> None:
    """Give a share of the clips a background of any brightness."""
    wild = torch.from_numpy(rng.random(len(clips)) < share)
    clips.background[wild] = torch.from_numpy(rng.random((len(clips), 3))).float()[wild]


def psnr(model: Autoencoder, pictures: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of encode and decode, over a batch (N, 3, H, W)."""
    with torch.no_grad():
        again = torch.cat([model.decode(model.encode(part)).clamp(0, 1) for part in pictures.split(32)])
    return (-10 * torch.log10(F.mse_loss(again, pictures))).item()


def reconstruction_loss(
    model: Autoencoder, pictures: torch.Tensor, recipe: AutoencoderRecipe
) -> tuple[torch.Tensor, dict]:
    """Absolute and squared error of noisy reconstructions, plus the spread of the latents."""
    with autocast():
        latents = model.taesd_encoder(pictures)
        noisy = latents + recipe.latent_noise * torch.randn_like(latents)
        again = model.taesd_decoder(noisy).float()
    latents = latents.float()
    variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
    spread = (mean**2 + (variance.clamp_min(1e-4).sqrt() - 1) ** 2).mean() + 0.1 * F.relu(
        latents.abs() - 2.5
    ).square().mean()
    loss = F.l1_loss(again, pictures) + 4 * F.mse_loss(again, pictures) + recipe.spread_weight * spread
    return loss, {"mse": F.mse_loss(again, pictures).item(), "spread": spread.item()}


def sample_hard_frames(rng: np.random.Generator, recipe: DecoderRecipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (N, 3, 64, 64) of which many are of small or turned shapes, and the shapes' coverage (N, 1, 64, 64)."""
    allowed = triples(held_out=False)
    times = np.array([recipe.favoured.get(name, 1) for name in MOTIONS])[allowed[:, 2]]
    clips = sample_clips(rng, recipe.batch, allowed.repeat(times, axis=0))
    _brighten(rng, clips, recipe.any_background)
    phase = torch.from_numpy(rng.random((recipe.batch, 1))).float()
    # Squared: most of what grows or shrinks is seen where it is small.
    growing, shrinking = (clips.motion == MOTIONS.index(name) for name in ("growing", "shrinking"))
    phase[growing] = phase[growing].square()
    phase[shrinking] = 1 - phase[shrinking].square()
    pictures, coverage = draw(clips, phase)
    return pictures[:, 0], coverage[:, 0]


def outline_loss(
    model: Autoencoder, pictures: torch.Tensor, coverage: torch.Tensor, recipe: DecoderRecipe
) -> tuple[torch.Tensor, dict]:
    """Absolute and squared error of noisy reconstructions, mostly on the shape; the encoder gets no gradient."""
    with torch.no_grad(), autocast():
        latents = model.taesd_encoder(pictures)
    with autocast():
        again = model.taesd_decoder(latents + recipe.latent_noise * torch.randn_like(latents)).float()
    around = F.max_pool2d(coverage, 2 * recipe.margin + 1, 1, recipe.margin)
    # However small a shape is, it counts as much as a large one.
    weight = recipe.near * around / around.mean((1, 2, 3), keepdim=True) + 1 - recipe.near
    error = again - pictures
    return (weight * (error.abs() + 4 * error.square())).mean(), {"mse": error.square().mean().item()}


def outlines_right(model: Autoencoder, count: int, seed: int = 99) -> float:
    """Share of the smallest frames of growing shapes whose outline is still the right one behind the autoencoder."""
    every = triples(held_out=False)
    growing = every[every[:, 2] == MOTIONS.index("growing")]
    clips = sample_clips(np.random.default_rng(seed), count, growing)
    pictures = draw(clips, torch.zeros(1))[0][:, 0]
    with torch.no_grad():
        again = torch.cat([model.decode(model.encode(part)).clamp(0, 1) for part in pictures.split(32)])
    return (frame_shapes(again[:, None])[:, 0] == clips.shape).float().mean().item()


def train_autoencoder(folder: Path, recipe: AutoencoderRecipe, log: RunLog) -> tuple[Autoencoder, float]:
    """Train, or go on from `folder`/autoencoder.pt; gives the averaged model in eval mode and its PSNR in dB."""
    model = cast(Any, Autoencoder()).to(memory_format=torch.channels_last)

    def loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict]:
        pictures = sample_frames(rng, recipe.batch, recipe.any_background)
        return reconstruction_loss(model, pictures.contiguous(memory_format=torch.channels_last), recipe)

    weights = [p for name, p in model.named_parameters() if not name.startswith("vae_")]
    _train(model, weights, loss, recipe, folder / "autoencoder.pt", log)
    held_out = sample_frames(np.random.default_rng(recipe.seed + 1), recipe.check, held_out=True)
    latents = model.eval().encode(held_out[:64]).detach()
    reached = psnr(model, held_out)
    log.write(
        "autoencoder",
        step=recipe.steps,
        psnr=reached,
        latent_std=latents.std().item(),
        latent_channel_mean=[round(v, 3) for v in latents.mean((0, 2, 3)).tolist()],
        latent_channel_std=[round(v, 3) for v in latents.std((0, 2, 3)).tolist()],
        cells=64 // CELL,
    )
    return model, reached


def train_decoder(model: Autoencoder, folder: Path, recipe: DecoderRecipe, log: RunLog) -> float:
    """Train a finished autoencoder's decoder further, in place; gives `outlines_right`."""

    def loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict]:
        pictures, coverage = sample_hard_frames(rng, recipe)
        return outline_loss(model, pictures.contiguous(memory_format=torch.channels_last), coverage, recipe)

    _train(model, list(model.taesd_decoder.parameters()), loss, recipe, folder / "decoder.pt", log)
    reached = outlines_right(model, recipe.check)
    held_out = sample_frames(np.random.default_rng(recipe.seed + 1), recipe.check, held_out=True)
    log.write("decoder", step=recipe.steps, outlines_right=reached, psnr=psnr(model, held_out))
    return reached


def _train(
    model: Autoencoder,
    weights: list[torch.nn.Parameter],
    loss_of: Callable[[np.random.Generator], tuple[torch.Tensor, dict]],
    recipe: AutoencoderRecipe | DecoderRecipe,
    path: Path,
    log: RunLog,
) -> None:
    """Train weights of a model, or go on from the checkpoint `path`; leaves their averages in it."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=1e-4, betas=(0.9, 0.99), fused=True)
    average = Average(weights, 0.995)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "average": average}
    state = load_state(path)
    with damage_named(path):
        first = _restore(state, parts, rng)
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * decayed(step, recipe.steps)
        loss, figures = loss_of(rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.update()
        if step % 50 == 0:
            log.write(path.stem, step=step, loss=loss.item(), **figures)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            saved: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            saved |= {"rng": rng_state(rng), "torch_rng": torch.get_rng_state(), "step": step + 1}
            save_whole(saved, path)
    average.swap()


def _restore(state: dict | None, parts: dict[str, Any], rng: np.random.Generator) -> int:
    """Put a checkpoint's state into model, optimizer, average and generators; gives the step to go on with."""
    if state is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    set_rng_state(rng, state["rng"])
    torch.set_rng_state(state["torch_rng"])
    return state["step"]
