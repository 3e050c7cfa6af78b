"""The bundled model's autoencoder: TAESD's architecture (Ollin Boer Bohan, MIT) under TAESD's parameter names.

The names are those that ComfyUI's VAE class recognises by `taesd_decoder.1.weight`, so a file of these weights is an
ordinary VAE there. The weights are this project's own, trained on drawn clips.
"""

import torch
from torch import Tensor, nn

LATENT_CHANNELS = 4
SCALE = 8
WIDTH = 64


class SoftClamp(nn.Module):
    """Keeps latents within (-3, 3), nearly unchanged below 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions around a skip connection; (N, WIDTH, H, W) to the same."""

    def __init__(self, operations, **factory):
        super().__init__()
        conv = lambda: operations.Conv2d(WIDTH, WIDTH, 3, padding=1, **factory)  # noqa: E731
        self.conv = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv())
        self.fuse = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(self.conv(x) + x)


def build_encoder(operations, **factory) -> nn.Sequential:
    """RGB in [0, 1], (N, 3, 8h, 8w), to latents (N, 4, h, w)."""
    layers = [operations.Conv2d(3, WIDTH, 3, padding=1, **factory), ResidualBlock(operations, **factory)]
    for _ in range(3):
        layers.append(operations.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2, bias=False, **factory))
        layers += [ResidualBlock(operations, **factory) for _ in range(3)]
    layers.append(operations.Conv2d(WIDTH, LATENT_CHANNELS, 3, padding=1, **factory))
    return nn.Sequential(*layers)


def build_decoder(operations, **factory) -> nn.Sequential:
    """Latents (N, 4, h, w) to RGB, about [0, 1], (N, 3, 8h, 8w)."""
    layers = [SoftClamp(), operations.Conv2d(LATENT_CHANNELS, WIDTH, 3, padding=1, **factory), nn.ReLU()]
    for _ in range(3):
        layers += [ResidualBlock(operations, **factory) for _ in range(3)]
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(operations.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False, **factory))
    layers += [ResidualBlock(operations, **factory), operations.Conv2d(WIDTH, 3, 3, padding=1, **factory)]
    return nn.Sequential(*layers)


class Autoencoder(nn.Module):
    """Pictures to latents of an eighth of the size with 4 channels, and back.

    Args:
        operations: namespace with `Conv2d` (torch.nn by default; ComfyUI's `comfy.ops.*` fits).
        dtype, device: of the parameters.
    """

    def __init__(self, operations=nn, dtype: torch.dtype | None = None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.taesd_encoder = build_encoder(operations, **factory)
        self.taesd_decoder = build_decoder(operations, **factory)
        # Part of TAESD's state: latents are encoder output / vae_scale + vae_shift. This model's need neither.
        self.vae_scale = nn.Parameter(torch.ones((), **factory))
        self.vae_shift = nn.Parameter(torch.zeros((), **factory))

    def encode(self, pictures: Tensor) -> Tensor:
        """RGB (N, 3, H, W) in [0, 1], H and W multiples of 8, to latents (N, 4, H/8, W/8), about unit variance."""
        if pictures.dim() != 4 or pictures.shape[1] != 3 or pictures.shape[2] % SCALE or pictures.shape[3] % SCALE:
            raise ValueError(
                f"pictures have shape {tuple(pictures.shape)}; expected (N, 3, H, W) with H and W multiples of {SCALE}"
            )
        return self.taesd_encoder(pictures) / self.vae_scale + self.vae_shift

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, 4, h, w) to RGB (N, 3, 8h, 8w) in [0, 1] (not clamped)."""
        if latents.dim() != 4 or latents.shape[1] != LATENT_CHANNELS:
            raise ValueError(f"latents have shape {tuple(latents.shape)}; expected (N, {LATENT_CHANNELS}, h, w)")
        return self.taesd_decoder((latents - self.vae_shift) * self.vae_scale)
