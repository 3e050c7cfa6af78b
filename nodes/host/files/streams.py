"""Clips between latents and video files, a few frames at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui
from torch import Tensor

from ....unet_motion.video import FrameRange, frame_rate, read_frames, write_frames
from ....unet_motion.video.mp4 import check_size
from ..checks import check_latent_clip
from .clips import BEST, graphs_of, pictures_of
from .outputs import new_output

MOST_SIDE = 16384
"""Pixels a side of frames that are encoded, as core's sizes go."""


def decode_to_file(
    samples: Tensor, vae: Any, prefix: str, fps: float, quality: int, at_once: int, hidden: Any
) -> tuple[Any, ui.SavedImages]:
    """Write a clip to a new MP4 of ComfyUI's output folder.

    Args:
        samples: latents (F, C, h, w).
        vae: core's VAE.
        prefix: of the file's name, with ComfyUI's placeholders and folders.
        quality: 0 to 100.
        at_once: frames that are decoded at a time: no more pictures are held.
        hidden: of the node: `prompt` and `extra_pnginfo`.

    Returns:
        Core's VIDEO of the file, and what the page shows on the node.

    Raises:
        ValueError: latents that are no clip, pictures that an MP4 cannot hold, a prefix outside of the output folder.
        OSError: the file cannot be written there.
    """
    check_latent_clip("samples", samples)
    if samples.shape[1] != (expected := getattr(vae, "latent_channels", samples.shape[1])):
        raise ValueError(f"`samples` has {samples.shape[1]} channels, expected {expected} as this VAE decodes.")
    decoded = _decoded(samples, vae, at_once)
    first = next(decoded)
    height, width = first.shape[:2]
    check_size(height, width)
    file = new_output(prefix, ".mp4", width, height)
    graphs = None if args.disable_metadata else graphs_of(hidden)

    def frames() -> Iterator[np.ndarray]:
        yield first
        yield from decoded

    write_frames(file.path, frames(), fps, quality=quality if quality < BEST else None, graphs=graphs)
    shown = ui.SavedImages([ui.SavedResult(file.name, file.subfolder, io.FolderType.output)], is_animated=True)
    return InputImpl.VideoFromFile(file.path), shown


def encode_from_file(
    video: Any, vae: Any, wanted: FrameRange, width: int, height: int, at_once: int
) -> tuple[Tensor, float]:
    """Latents (F, C, h, w) of frames of core's VIDEO, and their number a second.

    Args:
        width, height: pixels that frames are scaled and cut to; 0 keeps them, or the ratio to the other side.
        at_once: frames that are read and encoded at a time: no more pictures are held.

    Raises:
        ValueError: the video has fewer frames than are wanted, or cannot be read; a size that the VAE cannot encode.
    """
    unit = int(vae.spacial_compression_encode())
    frames, rate, total = _frames_of(video, wanted)
    bar = comfy.utils.ProgressBar(total or 1)
    latents: list[Tensor] = []
    count = 0
    for part in _parts(frames, at_once):
        comfy.model_management.throw_exception_if_processing_interrupted()
        size = _wanted_size(part[0].shape, width, height, unit)
        pictures = _scaled(torch.from_numpy(np.stack(part)).float() / 255, *size)
        latents.append(vae.encode(pictures).to("cpu"))
        check_latent_clip("vae", latents[-1])
        count += len(part)
        bar.update_absolute(count, max(total, count))
    return torch.cat(latents), rate / wanted.every_nth


def _decoded(samples: Tensor, vae: Any, at_once: int) -> Iterator[np.ndarray]:
    bar, count = comfy.utils.ProgressBar(len(samples)), 0
    for part in samples.split(at_once):
        comfy.model_management.throw_exception_if_processing_interrupted()
        images = vae.decode(part)
        if images.ndim != 4 or len(images) != len(part):
            raise ValueError(
                f"`vae` gives {tuple(images.shape)} for {len(part)} frames, expected (frames, height, width, 3)."
            )
        yield from pictures_of(images)
        count += len(part)
        bar.update_absolute(count)


def _frames_of(video: Any, wanted: FrameRange) -> tuple[Iterator[np.ndarray], float, int]:
    """The wanted frames of a VIDEO, its frames a second, and how many they are, 0 where only the end says."""
    if isinstance(video, InputImpl.VideoFromFile):
        trim = getattr(video, "get_active_trim_window", lambda: (0.0, 0.0))()  # older versions cannot trim
        source = video.get_stream_source()
        part = FrameRange(wanted.frames, wanted.skip_first, wanted.every_nth, *trim)
        return read_frames(source, part), frame_rate(source), wanted.frames
    # Its pictures are in memory already; as a file they would lose something.
    made = video.get_components()
    found = len(made.images)
    if found < wanted.needed or found <= wanted.skip_first:
        raise ValueError(
            f"`video` has {found} frames, expected at least {wanted.needed or wanted.skip_first + 1} for `frames` "
            f"{wanted.frames}, `skip_first` {wanted.skip_first} and `every_nth` {wanted.every_nth}."
        )
    numbers = [i for i in range(wanted.needed or found) if wanted.takes(i)]
    return (pictures_of(made.images[i : i + 1, ..., :3])[0] for i in numbers), float(made.frame_rate), len(numbers)


def _parts(frames: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    part = []
    for frame in frames:
        if part and frame.shape != part[0].shape:
            raise ValueError(f"`video` changes its size from {part[0].shape[:2]} to {frame.shape[:2]}, expected one.")
        part.append(frame)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _wanted_size(shape: tuple[int, ...], width: int, height: int, unit: int) -> tuple[int, int]:
    """Width and height that frames (H, W, 3) are brought to; a latent stands for `unit` pixels a side."""
    old_height, old_width = shape[:2]
    if not width and not height:
        size = (old_width, old_height)
    else:
        size = (
            width or max(1, round(old_width * height / old_height)),
            height or max(1, round(old_height * width / old_width)),
        )
    if min(size) < unit or max(size) > MOST_SIDE:
        raise ValueError(
            f"`video` of {old_width}x{old_height} pixels becomes {size[0]}x{size[1]} with `width` {width} and `height` "
            f"{height}, expected {unit} to {MOST_SIDE} pixels a side as `vae` encodes."
        )
    return size


def _scaled(pictures: Tensor, width: int, height: int) -> Tensor:
    """Pictures (F, H, W, 3) scaled until they cover a size, and cut to it around their middle."""
    if (height, width) == tuple(pictures.shape[1:3]):
        return pictures
    scaled = comfy.utils.common_upscale(pictures.movedim(-1, 1), width, height, "lanczos", "center")
    return scaled.movedim(1, -1)
