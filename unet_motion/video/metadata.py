"""What stands in a video file beside the pictures: settings, and the graphs that ComfyUI's page opens.

The settings are one JSON object: in the EXIF user comment of a WebP, the comment of a GIF or MP4, a text chunk of a
PNG. Graphs are ComfyUI's two forms of what it runs: `workflow`, with the places of the nodes, and `prompt`, what its
API takes. They stand where its page looks for them when a file is dropped on it: in text chunks of these names in a
PNG, in the EXIF tags Make (`workflow:{...}`) and Model (`prompt:{...}`) of a WebP, under keys of these names in an MP4.
The page reads no GIF, so a GIF holds no graphs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from ..values import quoted

FRAME_NAME = "frame_{:05d}.png"
GRAPH_TAGS = {"workflow": ExifTags.Base.Make, "prompt": ExifTags.Base.Model}

_PNG_KEY = "unet_motion"
# The EXIF standard puts an eight-byte name of the character set before a user comment.
_EXIF_ASCII = b"ASCII\0\0\0"


@dataclass(frozen=True)
class Labels:
    """JSON texts, in ASCII, for a file.

    Attributes:
        settings: of the pictures; None writes none.
        graphs: name -> ComfyUI's graph.
    """

    settings: str | None = None
    graphs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None, graphs: Mapping[str, Any] | None) -> Labels:
        """Labels of objects; ValueError for a graph that is neither `workflow` nor `prompt`."""
        for name in graphs or ():
            if name not in GRAPH_TAGS:
                raise ValueError(f"graphs has the name {quoted(name)}, expected only {' and '.join(GRAPH_TAGS)}")
        texts = {name: json.dumps(graph) for name, graph in (graphs or {}).items() if graph is not None}
        return cls(None if settings is None else json.dumps(settings, sort_keys=True), texts)

    def exif(self) -> bytes:
        """For a WebP; empty where there is nothing to say."""
        exif = Image.Exif()
        if self.settings is not None:
            comment = _EXIF_ASCII + self.settings.encode("ascii")
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
        for name, text in self.graphs.items():
            exif[GRAPH_TAGS[name]] = f"{name}:{text}"
        return exif.tobytes() if self.settings is not None or self.graphs else b""

    def chunks(self) -> PngImagePlugin.PngInfo:
        """For a PNG."""
        chunks = PngImagePlugin.PngInfo()
        for name, text in {_PNG_KEY: self.settings, **self.graphs}.items():
            if text is not None:
                chunks.add_text(name, text)
        return chunks

    def comment(self) -> bytes:
        """For a GIF."""
        return (self.settings or "").encode("ascii")

    def container(self) -> tuple[dict[str, str], dict[str, str]]:
        """For an MP4: its metadata, and PyAV's options of the file that they need."""
        metadata = {} if self.settings is None else {"comment": self.settings}
        # Keys of one's own need the tags; the page searches the start of a file only.
        options = {"movflags": "use_metadata_tags+faststart"} if self.graphs else {}
        return {**metadata, **self.graphs}, options


def with_findable_exif(webp: bytes) -> bytes:
    """A WebP file whose EXIF chunk ComfyUI's page finds.

    The page of ComfyUI 0.3.64 does not know that a chunk of odd length is padded and misses what follows one, as in the
    file of a single frame. Metadata may stand anywhere in a WebP, so that it is put before the picture then.
    """
    chunks, at = [], 12
    while at + 8 <= len(webp):
        length = int.from_bytes(webp[at + 4 : at + 8], "little")
        chunks.append(webp[at : at + 8 + length + length % 2])
        at += len(chunks[-1])
    exif = [chunk for chunk in chunks if chunk.startswith(b"EXIF")]
    others = [chunk for chunk in chunks if chunk not in exif]
    if not exif or all(chunk[4] % 2 == 0 for chunk in others):
        return webp
    header, *pictures = others
    return b"".join([webp[:12], header, *exif, *pictures])


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The settings that `write_video` put into a file or a folder of frames; ValueError if it has none."""
    path = _file_of(path)
    if path.suffix.lower() == ".mp4":
        text = _mp4_metadata(path).get("comment")
    else:
        with Image.open(path) as image:
            text = image.info.get(_PNG_KEY) or image.info.get("comment") or _exif_comment(image)
    settings = _json_object(text)
    if settings is None:
        raise ValueError(f"{path} holds no settings, expected a file written by unet_motion")
    return settings


def read_graphs(path: str | os.PathLike) -> dict[str, Any]:
    """ComfyUI's graphs in a PNG, WebP, MP4 or folder of frames, as its page finds them: `workflow`, `prompt`, both or
    none."""
    path = _file_of(path)
    if path.suffix.lower() == ".mp4":
        texts: dict[Any, Any] = dict(_mp4_metadata(path))
    else:
        with Image.open(path) as image:
            tags = [value for value in image.getexif().values() if isinstance(value, str)]
            texts = {**dict(value.split(":", 1) for value in tags if ":" in value), **image.info}
    graphs = {name: _json_object(texts.get(name)) for name in GRAPH_TAGS}
    return {name: graph for name, graph in graphs.items() if graph is not None}


def load_av():
    """PyAV; ImportError with what to do where it is missing."""
    try:
        import av
    except ImportError as error:
        raise ImportError("MP4 needs PyAV, which is not installed: `pip install av`") from error
    return av


def _file_of(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.is_dir():
        path = path / FRAME_NAME.format(0)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, expected a file or folder written by unet_motion")
    return path


def _mp4_metadata(path: Path) -> dict[str, str]:
    with load_av().open(str(path)) as container:
        return dict(container.metadata)


def _json_object(text: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(text, parse_constant=lambda _: None) if text else None  # as the page reads NaN
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _exif_comment(image: Image.Image) -> str | None:
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes) and comment.startswith(_EXIF_ASCII):
        return comment[len(_EXIF_ASCII) :].decode("ascii", "replace")
    return None
