"""IMAGE batches as files in ComfyUI's output folder."""

from __future__ import annotations

from typing import Any

import numpy as np
from comfy.cli_args import args
from comfy_api.latest import io, ui
from torch import Tensor

from ....unet_motion.video import WITH_QUALITY, write_video
from .outputs import new_output

# What a clip can be saved as: the suffix, and whether the page plays it where a node shows it.
KINDS = {"webp": (".webp", True), "gif": (".gif", False), "mp4": (".mp4", True), "sheet": (".png", False)}
BEST = 100


def pictures_of(images: Tensor) -> np.ndarray:
    """An IMAGE batch, 0 to 1 (F, H, W, 3), as uint8 of that shape, rounded to the nearest.

    Raises:
        ValueError: no frames, or another shape.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"`images` has shape {tuple(images.shape)}, expected (frames, height, width, 3).")
    if len(images) == 0:
        raise ValueError("`images` holds 0 frames, expected at least 1.")
    pictures = np.empty(images.shape, np.uint8)
    for picture, image in zip(pictures, images, strict=True):
        picture[:] = (image.float() * 255).nan_to_num(0).round().clamp(0, 255).cpu().numpy()
    return pictures


def save_clip(images: Tensor, prefix: str, kind: str, fps: float, quality: int, hidden: Any) -> ui.SavedImages:
    """Write a batch to a new file of ComfyUI's output folder, with the graphs inside that the page opens.

    Args:
        images: IMAGE batch, the frames.
        prefix: of the file's name, with ComfyUI's placeholders and folders.
        kind: one of `KINDS`.
        quality: of a WebP or MP4, 0 to 100; a WebP of 100 is lossless.
        hidden: of the node: `prompt` and `extra_pnginfo`.

    Returns:
        What the page shows on the node.

    Raises:
        ValueError: images that no file of this kind can hold, or a prefix outside of the output folder.
        OSError: the file cannot be written there.
    """
    pictures = pictures_of(images)
    height, width = pictures.shape[1:3]
    suffix, plays = KINDS[kind]
    file = new_output(prefix, suffix, width, height)
    graphs = None if args.disable_metadata else graphs_of(hidden)
    # The node has a quality whatever the kind.
    lowered = quality if quality < BEST and suffix in WITH_QUALITY else None
    write_video(file.path, pictures, fps, quality=lowered, graphs=graphs)
    return ui.SavedImages([ui.SavedResult(file.name, file.subfolder, io.FolderType.output)], is_animated=plays)


def graphs_of(hidden: Any) -> dict[str, Any]:
    """`prompt` and `workflow`, as far as they were given: API users need not send a workflow."""
    info = getattr(hidden, "extra_pnginfo", None) or {}
    return {"prompt": getattr(hidden, "prompt", None), "workflow": info.get("workflow")}
