"""A pipeline's tokenizer, text encoder and autoencoder: the bundled model's, or those of transformers and diffusers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..files.errors import warn_caller
from ..ops import cpu_vectors


def encode_text(tokenizer: Any, text_encoder: Any, texts: list[str], like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Hidden states (N, T, D) and pooled text (N, P) or None, in the dtype and on the device of a tensor.

    A tokenizer of transformers pads to its longest prompt, as Stable Diffusion was trained; words behind that are left
    out with a warning.
    """
    ids = tokenizer.encode_all(texts) if hasattr(tokenizer, "encode_all") else _padded(tokenizer, texts)
    out = text_encoder(ids.to(like.device))
    hidden, pooled = out if isinstance(out, tuple) else (out[0], getattr(out, "pooler_output", None))
    return hidden.to(like), None if pooled is None else pooled.to(like)


def _padded(tokenizer: Any, texts: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    for text in texts:
        found = len(tokenizer(text, truncation=False).input_ids)
        if found > length:
            begin = f"the prompt {text[:40]!r}"
            warn_caller(f"{begin}... has {found} tokens, expected at most {length}: the end is left out.")
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def decode_latents(autoencoder: Any, latents: Tensor, at_once: int = 16) -> Tensor:
    """Pictures in 0..1, float32 (N, 3, H, W), of latents (N, C, h, w) of the autoencoder's own scale."""
    return torch.cat([_decoded(autoencoder, part) for part in _like(autoencoder, latents).split(at_once)])


def encode_pictures(autoencoder: Any, pictures: Tensor, at_once: int = 16) -> Tensor:
    """Latents of the autoencoder's own scale, float32 (N, C, h, w), of pictures (N, 3, H, W) in 0..1."""
    return torch.cat([_encoded(autoencoder, part) for part in _like(autoencoder, pictures).split(at_once)])


def _like(autoencoder: Any, x: Tensor) -> Tensor:
    """In the dtype and on the device of the autoencoder's weights."""
    first = next(iter(autoencoder.parameters()), None) if hasattr(autoencoder, "parameters") else None
    return x if first is None else x.to(first.device, first.dtype)


def _encoded(autoencoder: Any, pictures: Tensor) -> Tensor:
    if hasattr(autoencoder, "config"):
        # diffusers' autoencoders take -1..1 and give a distribution in an object.
        return autoencoder.encode(pictures * 2 - 1).latent_dist.mode().float()
    return autoencoder.encode(pictures).float()


def _decoded(autoencoder: Any, latents: Tensor) -> Tensor:
    out = autoencoder.decode(latents)
    # diffusers' autoencoders give -1..1 in an object.
    pictures = out if isinstance(out, Tensor) else out.sample / 2 + 0.5
    return pictures.float()


def latent_scale_of(autoencoder: Any) -> float:
    """What the UNet's latents are divided by the autoencoder's: what its configuration says, else 1."""
    return float(getattr(getattr(autoencoder, "config", None), "scaling_factor", None) or 1.0)


def pixels_per_latent_of(autoencoder: Any) -> int:
    """The autoencoder's factor between pixels and latents: what its configuration says, else 8."""
    widths = getattr(getattr(autoencoder, "config", None), "block_out_channels", None)
    return 8 if widths is None else 2 ** (len(widths) - 1)


def default_dtype(device: torch.device | str) -> torch.dtype:
    """The dtype that a UNet computes in where none is named: bfloat16 on a CPU that is made for it, else float32."""
    fast = torch.device(device).type == "cpu" and cpu_vectors.BFLOAT16
    return torch.bfloat16 if fast else torch.float32


def default_device() -> torch.device:
    """The device to compute on where none is named: a CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
