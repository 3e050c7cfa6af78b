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

from ....unet_motion.files.errors import shorten
from ....unet_motion.training.data.clip_files import ClipOptions, find_clips, read_clip
from ....unet_motion.training.data.in_memory import HeldClips
from ..files.paths import is_within
from ..model.ldm_view import check_text

LEAST_FRAMES = 2
TRAINING_CLIPS = "training_clips"
"""What folders of clips outside of the input folder are called in extra_model_paths.yaml."""
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


FoundClips = tuple[list[str], list[Callable[[], Tensor]], list[str]]
"""Names of the clips, functions that read each as (F, H, W, 3) in [0, 1], and captions."""


def read_clips(shown: Shown) -> FoundClips:
    """What there is to learn from; no picture of a folder is read yet.

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


def _of_images(shown: Shown) -> FoundClips:
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


def _of_folder(shown: Shown) -> FoundClips:
    options = ClipOptions(shown.frames, shown.fps or None, buckets=(shown.size,))
    path = folder_path(shown.folder)
    if not os.path.isdir(path):
        expected = "expected one with videos, GIFs, WebPs or folders of frames"
        raise ValueError(f"`folder` {shorten(shown.folder)!r} is no folder, {expected}.")
    found = find_clips(path)
    if not found:
        raise ValueError(f"`folder` {shown.folder} has no clips, expected videos, GIFs, WebPs or folders of pictures.")
    problems = [source.problem for source in found if source.problem is not None]
    if problems and not shown.captions.strip():
        raise ValueError(problems[0])

    def read(path: Path) -> Tensor:
        return torch.from_numpy(read_clip(path, options)).float() / 255

    reads = [lambda path=source.path: read(path) for source in found]
    return [source.path.name for source in found], reads, [source.caption for source in found]


def folder_path(folder: str) -> str:
    """The path of a folder in ComfyUI's input folder, or in one that the server's owner named.

    Those are given by `training_clips` in extra_model_paths.yaml.

    Raises:
        ValueError: a folder elsewhere.
    """
    allowed = [folder_paths.get_input_directory(), *folder_paths.folder_names_and_paths.get(TRAINING_CLIPS, ((),))[0]]
    given = os.path.expanduser(folder.strip())
    # A whole path stays as it is when it is joined.
    places = [] if "\0" in given else allowed
    inside = [path for place in places if is_within(path := os.path.abspath(os.path.join(place, given)), place)]
    if inside:
        return next((path for path in inside if os.path.isdir(path)), inside[0])
    raise ValueError(
        f"`folder` is {folder[:200]!r}, expected a folder in ComfyUI's input folder, or in one that `{TRAINING_CLIPS}` "
        "in extra_model_paths.yaml names."
    )


def folder_stamp(folder: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of what clips of a folder are read from: other ones may mean other clips or captions.

    Raises:
        ValueError: see :func:`folder_path`.
    """
    path, found = folder_path(folder), []
    for place in [path, *(entry.path for entry in _entries(path) if entry.is_dir())]:
        for entry in _entries(place):
            if entry.is_file():
                state = entry.stat()
                found.append((entry.path, state.st_size, state.st_mtime_ns))
    return sorted(found)


def _entries(folder: str) -> list[os.DirEntry]:
    """What is in a folder; nothing where it cannot be read: the node says so when it runs."""
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


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


def encoded_clips(found: FoundClips, count: int, encoder: ModelEncoder) -> HeldClips:
    """All clips in latents, with their texts.

    Args:
        found: see :func:`read_clips`.
        count: frames of a clip.

    Raises:
        ValueError, OSError: a file that cannot be read or is too short.
    """
    names, reads, captions = found
    latents, texts, known = [], [], {}
    for read, caption in zip(reads, captions, strict=True):
        frames = read()
        height, width = frames.shape[1:3]
        latents.append(encoder.pictures(frames))
        for line in (caption, ""):
            if (line, width, height) not in known:
                known[line, width, height] = encoder.text(line, width, height)
        texts.append(known[caption, width, height])
    return HeldClips(names, latents, texts, known["", width, height], count)
