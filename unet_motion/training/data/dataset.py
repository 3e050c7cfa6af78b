"""A folder of clips as latents and text: encoded once, kept on disk by content, drawn at random.

The order of the draws is a function of one generator, so a training run that restores its state sees the same data.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...files.writing import write_safetensors
from .clip_files import ClipOptions, ClipSource, find_clips, pictures_of, read_clip

_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ClipEncoder:
    """What turns pictures and captions into the tensors that a UNet is trained on.

    Attributes:
        name: of the weights (a checksum, say): another name means other entries of the cache.
        pictures: float32 (N, 3, H, W) in [0, 1] to latents (N, C, h, w).
        text: a caption to tensors by name.
    """

    name: str
    pictures: Callable[[Tensor], Tensor]
    text: Callable[[str], Mapping[str, Tensor]]


class ClipDataset:
    """Every readable clip of a folder, in latents.

    Args:
        folder: see `find_clips`.
        encoder: encodes what the cache does not hold.
        options: how clips are cut.
        cache: folder of encoded files; written whole or not at all, and a damaged one is made again.

    Attributes:
        sources: what was read.
        skipped: a sentence for each file that was not; each is also a warning.

    Raises:
        ValueError: nothing in the folder can be read.
    """

    def __init__(
        self, folder: str | os.PathLike, encoder: ClipEncoder, options: ClipOptions, cache: str | os.PathLike
    ) -> None:
        self.encoder, self.options, self.cache = encoder, options, Path(cache)
        self.sources: list[ClipSource] = []
        self.skipped: list[str] = []
        self.latents: list[dict[str, Tensor]] = []
        self.texts: list[dict[str, Tensor]] = []
        for source in find_clips(folder):
            try:
                if source.problem is not None:
                    raise ValueError(source.problem)
                latents = self._latents(source.path)
            except _UNREADABLE as error:
                names = str(source.path) in str(error) and source.problem is None
                sentence = str(error) if names else f"{source.path}: {error}"
                self.skipped.append(sentence)
                warnings.warn(f"skipped {sentence}", stacklevel=2)
                continue
            self.sources.append(source)
            self.latents.append(latents)
            self.texts.append(self._text(source.caption))
        if not self.sources:
            found = f"only files that cannot be used: {' '.join(self.skipped)}" if self.skipped else "no clips"
            raise ValueError(f"{folder}: has {found}; expected videos, GIFs, WebPs or folders of frames.")

    def __len__(self) -> int:
        return len(self.sources)

    def draw(self, generator: torch.Generator, count: int = 1) -> dict[str, Tensor]:
        """Random clips of one resolution.

        Returns:
            `latents` (count, frames, C, h, w), and the encoder's text tensors, each with `count` in front; `source`
            (count,) says which entries of `sources` they are.
        """
        first = self._integer(generator, len(self))
        shape = self.latents[first]["latents"].shape[1:]
        alike = [i for i, entry in enumerate(self.latents) if entry["latents"].shape[1:] == shape]
        chosen = [first, *(alike[self._integer(generator, len(alike))] for _ in range(count - 1))]
        clips = []
        for index in chosen:
            mirrored = self.options.flip and self._integer(generator, 2) == 1
            latents = self.latents[index]["mirrored" if mirrored else "latents"]
            start = self._integer(generator, len(latents) - self.options.frames + 1)
            clips.append(latents[start : start + self.options.frames])
        texts = {name: torch.stack([self.texts[i][name] for i in chosen]) for name in self.texts[first]}
        return {"latents": torch.stack(clips), "source": torch.tensor(chosen)} | texts

    def empty_text(self) -> dict[str, Tensor]:
        """The encoder's tensors of the empty prompt."""
        return self._text("")

    def digest(self) -> str:
        """A checksum of all that `draw` gives, whatever the files are called."""
        total = hashlib.sha256(json.dumps([self.options.frames, self.options.flip]).encode())
        for entry in [*self.latents, *self.texts]:
            for name, value in sorted(entry.items()):
                total.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
                total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    @staticmethod
    def _integer(generator: torch.Generator, below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    def _latents(self, path: Path) -> dict[str, Tensor]:
        o = self.options
        settings = [o.fps, o.stride, o.buckets, o.flip]

        def make() -> dict[str, Tensor]:
            frames = torch.from_numpy(read_clip(path, o)).permute(0, 3, 1, 2)
            entry = {"latents": self._encoded(frames)}
            return entry | ({"mirrored": self._encoded(frames.flip(-1))} if o.flip else {})

        entry = self._cached([_content(path), settings], make)
        if len(entry["latents"]) < o.frames:
            raise ValueError(
                f"{path}: gives {len(entry['latents'])} frames, expected at least the {o.frames} of a clip."
            )
        return entry

    @torch.no_grad()
    def _encoded(self, frames: Tensor) -> Tensor:
        return torch.cat([self.encoder.pictures(part.float() / 255).float().cpu() for part in frames.split(16)])

    @torch.no_grad()
    def _text(self, caption: str) -> dict[str, Tensor]:
        return self._cached(["text", caption], lambda: dict(self.encoder.text(caption)))

    def _cached(self, key: list, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        digest = hashlib.sha256(json.dumps([self.encoder.name, *key]).encode()).hexdigest()
        path = self.cache / f"{digest}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except (SafetensorError, OSError, ValueError):
                path.unlink()
        entry = {name: value.detach().cpu().contiguous() for name, value in make().items()}
        write_safetensors(entry, path)
        return entry


def _content(path: Path) -> str:
    """A checksum of a file, or of all frames in a folder and their names."""
    total = hashlib.sha256()
    for file in pictures_of(path) if path.is_dir() else [path]:
        part = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                part.update(block)
        total.update(f"{file.name if path.is_dir() else ''}:{part.hexdigest()}\n".encode())
    return total.hexdigest()
