"""Clips that were encoded elsewhere: a folder of latents and text, for UNets whose encoders are not in this package."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...files.errors import one_line
from .clip_files import ClipOptions, ClipSource
from .dataset import ClipDataset

TEXTS = {"text": 2, "text_embeds": 1, "time_ids": 1}
EMPTY = "empty.safetensors"


class EncodedClips(ClipDataset):
    """Every `*.safetensors` directly in a folder, drawn as `ClipDataset` draws.

    Each holds `latents` (F, C, h, w), scaled as the UNet takes them, and `text` (T, D) for cross-attention; for UNets
    such as SDXL's also `text_embeds` (P,) and `time_ids` (N,). `empty.safetensors` holds the empty prompt's texts and
    no latents.

    Args:
        folder: of the files.
        frames: length of a drawn clip.

    Raises:
        OSError: no such folder.
        ValueError: a file that does not hold this, or no clip at all.
    """

    def __init__(self, folder: str | os.PathLike, frames: int = 16) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise NotADirectoryError(one_line(f"{folder} is no folder, expected one with encoded clips."))
        self.options, self.skipped, self.sources = ClipOptions(frames=frames), [], []
        self.latents, self.texts, self._empty, first = [], [], None, None
        for path in sorted(folder.glob("*.safetensors")):
            if path.name.startswith("."):
                continue
            text = _read(path)
            latents = text.pop("latents", None)
            shapes = {name: tuple(value.shape) for name, value in text.items()}
            first = first or (path.name, shapes)
            if shapes != first[1]:
                raise ValueError(f"{path}: has texts of shapes {shapes}, expected {first[1]} as in {first[0]}.")
            if path.name == EMPTY:
                self._empty = text
                continue
            if latents is None or latents.ndim != 4 or len(latents) < frames:
                found = "no latents" if latents is None else f"latents of shape {list(latents.shape)}"
                raise ValueError(f"{path}: has {found}, expected (at least {frames} frames, channels, height, width).")
            self.sources.append(ClipSource(path, ""))
            self.latents.append({"latents": latents})
            self.texts.append(text)
        if not self.sources:
            raise ValueError(
                f"{folder}: has no encoded clips, expected .safetensors files with `latents` and `text`: videos can be "
                "read for the bundled model only."
            )

    def empty_text(self) -> dict[str, Tensor]:
        """The texts of `empty.safetensors`.

        Raises:
            ValueError: there is none.
        """
        if self._empty is None:
            raise ValueError(
                f"{self.sources[0].path.parent}: has no {EMPTY}, expected one with the empty prompt's `text`, or that "
                "no prompt is dropped."
            )
        return self._empty


def _read(path: Path) -> dict[str, Tensor]:
    try:
        entry = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read as safetensors ({error}).") from error
    unknown = sorted(entry.keys() - {"latents", *TEXTS})
    wrong = [name for name in TEXTS if name in entry and entry[name].ndim != TEXTS[name]]
    if unknown or wrong or "text" not in entry:
        found = f"`{(unknown + wrong)[0]}` among them" if unknown or wrong else "no `text`"
        raise ValueError(
            f"{path}: has {sorted(entry)}, {found}, expected latents (F, C, h, w), text (T, D), and where the UNet "
            "takes them text_embeds (P,) and time_ids (N,)."
        )
    return {name: value.float() for name, value in entry.items()}
