"""Graphs that stand in pictures and videos: those that ComfyUI's page opens, and VideoHelperSuite's."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

from ...files.errors import shorten
from .graph import WorkflowError
from .page import is_page_graph

STARTS = {b"\x89PNG": 0, b"RIFF": 0, b"GIF8": 0, b"ftyp": 4, b"\x1a\x45\xdf\xa3": 0}
"""How pictures and videos begin, and at which byte; the last are WebM and Matroska."""

VIDEOS = (b"ftyp", b"\x1a\x45\xdf\xa3")
COMMENTS = (b'{"prompt":', b'{"workflow":')
LARGEST_COMMENT, MOST_COMMENTS = 2**24, 20  # bytes, places in a file


def kind_of(path: str | os.PathLike) -> bytes | None:
    """How a picture or video begins; None for other files."""
    with open(path, "rb") as file:
        head = file.read(16)
    return next((start for start, at in STARTS.items() if head[at : at + len(start)] == start), None)


def read_embedded(path: str | os.PathLike, kind: bytes) -> dict[str, Any]:
    """The graph in a picture or video: as the page saved it, else as the API takes it.

    Args:
        path: the file.
        kind: what `kind_of` says of it.

    Raises:
        WorkflowError: it holds none, or cannot be read, or needs PyAV.
    """
    graphs = {} if kind in VIDEOS else _graphs(path)
    graphs = graphs or _comment(path)
    if not graphs and kind == b"ftyp":
        graphs = _graphs(path)
    for name in ("workflow", "prompt"):
        if name in graphs:
            return graphs[name]
    raise WorkflowError(f"{path} holds no workflow, expected a picture or video that ComfyUI saved with one.")


def _graphs(path: str | os.PathLike) -> dict[str, Any]:
    from ...video import read_graphs

    try:
        return read_graphs(path)
    except ImportError as error:
        raise WorkflowError(f"{path} is a video: {error}") from None
    except Exception as error:  # whatever a decoder says of a damaged file
        raise WorkflowError(f"{path} cannot be read ({shorten(str(error))}), expected a picture or video.") from None


def _comment(path: str | os.PathLike) -> dict[str, Any]:
    """The graphs in the comment of VideoHelperSuite's files, wherever in the file that stands."""
    if not Path(path).stat().st_size:
        return {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start in COMMENTS:
            at = -1
            for _ in range(MOST_COMMENTS):
                at = data.find(start, at + 1)
                if at < 0:
                    break
                found = _object(data[at : at + LARGEST_COMMENT].decode("utf-8", "replace"))
                prompt = found.get("prompt")
                prompt = _object(prompt) if isinstance(prompt, str) else prompt
                graphs = {"workflow": found.get("workflow"), "prompt": prompt}
                if is_page_graph(graphs["workflow"]) or (isinstance(prompt, dict) and prompt):
                    return {name: graph for name, graph in graphs.items() if isinstance(graph, dict) and graph}
    return {}


def _object(text: str) -> dict[str, Any]:
    """The JSON object that a text begins with; an empty one where there is none."""
    try:
        found, _ = json.JSONDecoder(parse_constant=lambda _: None).raw_decode(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
