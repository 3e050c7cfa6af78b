"""The small decoder of the latents that a MODEL makes, for previews: TAESD's where its file is, or the bundled one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import comfy.taesd.taesd
import folder_paths
import torch
from torch import Tensor

from ....unet_motion.bundled import load_bundled
from ..model.saving import UnscaledLatent

Decode = Callable[[Tensor], Tensor]
"""Latents (N, C, h, w) as the model sees them -> pictures (N, 3, H, W), about [-1, 1]."""

AT_ONCE = 4
LARGEST = 384
"""Pixels of a picture's longer side; larger ones are scaled down, for nodes are no larger."""


def small_decoder(latent_format: Any, device: torch.device) -> Decode | None:
    """The decoder of latents, or None where there is none for them."""
    if isinstance(latent_format, UnscaledLatent):
        autoencoder = _bundled()
        return _in_parts(lambda part: autoencoder.to(device).decode(part.float()) * 2 - 1)
    path = _taesd_path(getattr(latent_format, "taesd_decoder_name", None))
    if path is None:
        return None
    try:
        taesd = comfy.taesd.taesd.TAESD(None, path, latent_channels=latent_format.latent_channels).to(device)
    except Exception as error:  # a preview ends no run
        logging.warning("%s cannot be read as a decoder for previews: %s", path, error)
        return None
    return _in_parts(lambda part: taesd.decode(part.float()))


def _taesd_path(name: str | None) -> str | None:
    """The file of a TAESD decoder in the folder that core's previews look into."""
    if not name:
        return None
    found = next((file for file in folder_paths.get_filename_list("vae_approx") if file.startswith(name)), None)
    return None if found is None else folder_paths.get_full_path("vae_approx", found)


@lru_cache(1)
def _bundled():
    return load_bundled().autoencoder


def _in_parts(decode: Decode) -> Decode:
    """A few pictures at a time, none larger than it is shown."""

    @torch.inference_mode()
    def decoded(latents: Tensor) -> Tensor:
        return torch.cat([_fitted(decode(part)) for part in latents.split(AT_ONCE)])

    return decoded


def _fitted(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[2:]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return pictures
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return torch.nn.functional.interpolate(pictures, size, mode="area")
