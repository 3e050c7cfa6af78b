"""Training of the autoencoder on drawn frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..bundled.autoencoder import Autoencoder
from .data import CELL, ClipBatch, draw, sample_clips, triples
from .precision import autocast
from .runs import Average, RunLog, decayed, load_state, rng_state, save_whole, set_rng_state


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


def sample_frames(
    rng: np.random.Generator, count: int, any_background: float = 0.0, held_out: bool = False
) -> torch.Tensor:
    """Single frames (count, 3, 64, 64) of clips at random phases."""
    clips: ClipBatch = sample_clips(rng, count, triples(held_out))
    wild = torch.from_numpy(rng.random(count) < any_background)
    clips.background[wild] = torch.from_numpy(rng.random((count, 3))).float()[wild]
    phase = torch.from_numpy(rng.random((count, 1))).float()
    return draw(clips, phase)[0][:, 0]


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


def train_autoencoder(folder: Path, recipe: AutoencoderRecipe, log: RunLog) -> tuple[Autoencoder, float]:
    """Train, or go on from `folder`/autoencoder.pt; gives the averaged model in eval mode and its PSNR in dB."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = Autoencoder().to(memory_format=torch.channels_last)
    weights = [p for name, p in model.named_parameters() if not name.startswith("vae_")]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=1e-4, betas=(0.9, 0.99), fused=True)
    average = Average(weights, 0.995)
    first, path = 0, folder / "autoencoder.pt"
    if (state := load_state(path)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        set_rng_state(rng, state["rng"])
        torch.set_rng_state(state["torch_rng"])
        first = state["step"]
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * decayed(step, recipe.steps)
        pictures = sample_frames(rng, recipe.batch, recipe.any_background).contiguous(memory_format=torch.channels_last)
        loss, figures = reconstruction_loss(model, pictures, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.update()
        if step % 50 == 0:
            log.write("autoencoder", step=step, loss=loss.item(), **figures)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict(),
                "rng": rng_state(rng),
                "torch_rng": torch.get_rng_state(),
                "step": step + 1,
            }
            save_whole(state, path)
    average.swap()
    held_out = sample_frames(np.random.default_rng(recipe.seed + 1), 128, held_out=True)
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
