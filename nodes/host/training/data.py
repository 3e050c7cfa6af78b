"""Images, folders and captions as the latents and texts that a MODEL is trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import torch
from torch import Tensor

from ....unet_motion.training.data.clip_files import ClipOptions, find_clips, read_clip
from ....unet_motion.training.data.in_memory import HeldClips
from ..model.ldm_view import check_text

LEAST_FRAMES = 2
FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class Shown:
    """What the LoRA is to learn from.

    Attributes:
        images: IMAGE batch (N, H, W, 3), clips of `frames` behind one another; or None.
        folder: of videos, GIFs, WebPs and folders of pictures; "" is none.
        captions: one line for all clips, or a line for each; "" takes the folder's own, which are empty for images.
        frames: of a clip.
        size: width and height that the folder's clips are cut to.
        fps: frames a second that are taken of them; 0 takes all.
    """

    images: Tensor | None
    folder: str
    captions: str
    frames: int
    size: tuple[int, int]
    fps: float


def read_clips(shown: Shown) -> tuple[list[str], list[Callable[[], Tensor]], list[str]]:
    """Names of the clips, functions that read each as (F, H, W, 3) in [0, 1], and captions.

    Raises:
        ValueError: neither images nor a folder or both, frames or captions that do not fit.
        OSError: no such folder.
    """
    if shown.frames < LEAST_FRAMES:
        raise ValueError(f"`frames_per_clip` is {shown.frames}, expected at least {LEAST_FRAMES}.")
    if (shown.images is None) == (not shown.folder):
        found = "neither is" if shown.images is None else "both are"
        raise ValueError(f"`images` and `folder`: {found} given, expected one of them.")
    names, reads, own = _of_images(shown) if shown.images is not None else _of_folder(shown)
    return names, reads, _captions(shown.captions, own)


def _of_images(shown: Shown) -> tuple[list[str], list[Callable[[], Tensor]], list[str]]:
    images, frames = shown.images, shown.frames
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"`images` has shape {tuple(images.shape)}, expected (frames, height, width, 3).")
    if len(images) < LEAST_FRAMES:
        raise ValueError(f"`images` holds {len(images)} frames, expected at least {LEAST_FRAMES}: a clip that moves.")
    if len(images) % frames:
        raise ValueError(f"`images` holds {len(images)} frames, expected a multiple of `frames_per_clip` {frames}.")
    if images.shape[1] % 8 or images.shape[2] % 8:
        raise ValueError(f"`images` is {images.shape[2]} by {images.shape[1]} pixels, expected multiples of 8.")
    clips = images.split(frames)
    return [f"images, clip {i + 1}" for i in range(len(clips))], [lambda c=c: c for c in clips], [""] * len(clips)


def _of_folder(shown: Shown) -> tuple[list[str], list[Callable[[], Tensor]], list[str]]:
    options = ClipOptions(shown.frames, shown.fps or None, buckets=(shown.size,))
    found = find_clips(folder_path(shown.folder))
    if not found:
        raise ValueError(f"`folder` {shown.folder} has no clips, expected videos, GIFs, WebPs or folders of pictures.")

    def read(path: Path) -> Tensor:
        return torch.from_numpy(read_clip(path, options)).float() / 255

    reads = [lambda path=source.path: read(path) for source in found]
    return [source.path.name for source in found], reads, [source.caption for source in found]


def folder_path(folder: str) -> str:
    """A folder by its path, or by its name in ComfyUI's input folder."""
    folder = os.path.expanduser(folder.strip())
    return folder if os.path.isabs(folder) else os.path.join(folder_paths.get_input_directory(), folder)


def folder_stamp(folder: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of what is in a folder: other ones mean that a clip or a caption may be another."""
    found = []
    for place, _, names in os.walk(folder_path(folder)):
        for name in sorted(names):
            state = os.stat(os.path.join(place, name))
            found.append((os.path.join(place, name), state.st_size, state.st_mtime_ns))
    return sorted(found)


def _captions(text: str, own: Sequence[str]) -> list[str]:
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines:
        return list(own)
    if len(lines) not in (1, len(own)):
        raise ValueError(
            f"`captions` has {len(lines)} lines for {len(own)} clips, expected one line for all or one for each."
        )
    return lines * len(own) if len(lines) == 1 else lines


class ModelEncoder:
    """Pictures and captions in the form that a MODEL takes them.

    Args:
        model, clip, vae: ComfyUI's, of one loader.
    """

    def __init__(self, model: Any, clip: Any, vae: Any) -> None:
        self.model, self.clip, self.vae = model, clip, vae

    def pictures(self, frames: Tensor) -> Tensor:
        """Latents (F, C, h, w) of pictures (F, H, W, 3), scaled as the UNet takes them.

        Raises:
            ValueError: the VAE is one of other latents.
        """
        parts = []
        for part in frames.split(FRAMES_AT_ONCE):
            mm.throw_exception_if_processing_interrupted()
            parts.append(self.vae.encode(part).float().cpu())
        latents, channels = torch.cat(parts), self.model.model.latent_format.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(
                f"`vae` gives latents of shape {tuple(latents.shape)}, expected (frames, {channels}, height, width): "
                "use the VAE of the same loader."
            )
        return self.model.model.process_latent_in(latents)

    def decoded(self, latents: Tensor) -> Tensor:
        """Pictures (F, H, W, 3) in [0, 1] of latents (F, C, h, w)."""
        return self.vae.decode(self.model.model.process_latent_out(latents.float().cpu())).float().cpu()

    def text(self, caption: str, width: int, height: int) -> dict[str, Tensor]:
        """`text` (T, D) for cross-attention; where the MODEL has a vector of text (and size) that `vector` (P,)."""
        ((hidden, more), *_) = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))
        check_text(hidden, self.model.model.diffusion_model.core.config)
        sizes = {"width": width, "height": height, "target_width": width, "target_height": height}
        given = {name: value for name, value in more.items() if name == "pooled_output"}
        vector = self.model.model.encode_adm(device=torch.device("cpu"), noise=None, **sizes, **given)
        found = {"text": hidden[0].float().cpu()}
        return found if vector is None else {**found, "vector": vector[0].float().cpu()}


def encoded_clips(shown: Shown, encoder: ModelEncoder) -> HeldClips:
    """All clips in latents, with their texts.

    Raises:
        ValueError, OSError: see :func:`read_clips`; a file that cannot be read or is too short.
    """
    names, reads, captions = read_clips(shown)
    latents, texts, known = [], [], {}
    for read, caption in zip(reads, captions, strict=True):
        frames = read()
        height, width = frames.shape[1:3]
        latents.append(encoder.pictures(frames))
        for line in (caption, ""):
            if (line, width, height) not in known:
                known[line, width, height] = encoder.text(line, width, height)
        texts.append(known[caption, width, height])
    return HeldClips(names, latents, texts, known["", width, height], shown.frames)
