"""What motion modules are trained on: a UNet, its noise schedule, and clips in its latents."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bundled import WEIGHTS, BundledParts, load_bundled
from ..files.description import describe_file
from ..formats import FileFormatError, load_motion_module, load_unet
from ..formats.motion_weights import MotionModule
from ..model.motion_adapter import MotionAdapter
from ..model.unet_motion_model import UNetMotionModel
from ..sampling import NoiseSchedule
from ..sampling.noise_schedule import INFO_KEYS
from ..values import quoted
from .data.clip_files import ClipOptions
from .data.dataset import ClipDataset, ClipEncoder
from .data.encoded import EncodedClips

BUNDLED = "bundled"


@dataclass
class Base:
    """A UNet to train, in float32, with what is known of it.

    Attributes:
        unet: with the motion modules that training starts from.
        parts: of a model of the bundled form, whose encoders read clips; None for any other UNet.
        schedule: arguments of `NoiseSchedule.named`.
        source: where the weights are from, ready for JSON.
    """

    unet: UNetMotionModel
    parts: BundledParts | None
    schedule: dict[str, Any]
    source: dict[str, Any]


def load_base(
    base: str | os.PathLike, motion: str | os.PathLike | None = None, new: bool = False, seed: int = 0
) -> Base:
    """Load what is to be trained.

    Args:
        base: `bundled`, a file that `unet-motion train bundled` wrote, or any UNet that `load_unet` reads.
        motion: motion modules to start from; the default is the base's own, or new ones where it has none.
        new: start from new ones in any case: they change nothing until they are trained.
        seed: of new ones.

    Raises:
        OSError, ValueError: a file that is not there, cannot be read or does not fit.
    """
    if motion is not None and new:
        raise ValueError("`motion` and `new` are both given, expected one of them.")
    module = None if motion is None else load_motion_module(Path(motion), torch.float32)
    path = Path(WEIGHTS) if str(base) == BUNDLED else Path(base)
    with torch.random.fork_rng(devices=[]):  # new modules get their values from the global generator
        torch.manual_seed(seed)
        if str(base) == BUNDLED or _is_bundled_form(path):
            parts = load_bundled(path=path)
            unet, schedule = parts.unet, {INFO_KEYS[k]: v for k, v in parts.info.items() if k in INFO_KEYS}
            if module is not None:
                _set_motion(unet, module, path)
        else:
            parts, unet = None, load_unet(path, module, dtype=torch.float32)
            schedule = {}
            if module is not None and (known := module.published) is not None:
                schedule = {"betas": known.beta_schedule, "start": known.beta_start, "end": known.beta_end}
        if new:
            config = unet.motion_adapter_config().replace(conv_in_channels=None)
            unet.load_motion_modules(MotionAdapter.from_config(config))
    source = {"base": path.name, "base_sha256": checksum(path)}
    if motion is not None:
        source |= {"motion": Path(motion).name, "motion_sha256": checksum(Path(motion))}
    return Base(unet, parts, schedule, source | {"new_motion_modules": new})


def read_data(base: Base, folder: str | os.PathLike, options: ClipOptions, cache: str | os.PathLike) -> ClipDataset:
    """Clips for a base: videos and pictures for a model of the bundled form, encoded ones for any other UNet."""
    if base.parts is None:
        return EncodedClips(folder, options.frames)
    return ClipDataset(folder, bundled_encoder(base.parts, base.source["base_sha256"]), options, cache)


def bundled_encoder(parts: BundledParts, name: str) -> ClipEncoder:
    """The encoders of a model of the bundled form; `name` tells its weights from others."""
    scale = parts.info.get("latent_scale", 1.0)
    longest = parts.tokenizer.encode("").shape[1]

    def text(caption: str) -> dict[str, Tensor]:
        unknown = parts.tokenizer.unknown_words(caption)
        if unknown:
            found = f"the caption {quoted(caption)} has words that the model does not know: {unknown}."
            warnings.warn(found, stacklevel=2)
        ids = parts.tokenizer.encode(caption)
        if ids.shape[1] > longest:
            raise ValueError(f"the caption {quoted(caption)} is too long, expected at most {longest - 1} known words.")
        hidden, pooled = parts.text_encoder(ids)
        return {"text": hidden[0], "text_embeds": pooled[0], "time_ids": torch.zeros(1)}

    return ClipEncoder(name, lambda pictures: parts.autoencoder.encode(pictures) * scale, text)


def noise_schedule(base: Base, **changes: Any) -> NoiseSchedule:
    """The base's noise schedule, with arguments of `NoiseSchedule.named` that are not None in place of its own."""
    return NoiseSchedule.named(**base.schedule | {name: value for name, value in changes.items() if value is not None})


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of the weights in a folder, in hexadecimal."""
    total = hashlib.sha256()
    files = [p for p in sorted(path.rglob("*")) if p.suffix in (".safetensors", ".bin")] if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _is_bundled_form(path: Path) -> bool:
    try:
        found = describe_file(path)
    except FileFormatError:
        return False
    return {"words", "unet"} <= found.keys()


def _set_motion(unet: UNetMotionModel, module: MotionModule, path: Path) -> None:
    heads, own = module.config.motion_num_attention_heads, unet.config.motion_num_attention_heads
    groups, own_groups = module.config.motion_norm_num_groups, unet.config.norm_num_groups
    if (heads, groups) != (own, own_groups):
        raise ValueError(
            f"{module.path}: has motion modules of {heads} heads and {groups} groups, but {path} expects {own} and "
            f"{own_groups}."
        )
    unet.load_motion_modules(module.to_adapter())
    unet.set_norm_scope(*module.norm_scopes)
