"""Graphs in files: JSON, and pictures and videos that hold one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...files.atomic import atomic_files
from ...files.errors import shorten
from ...files.limits import read_bounded
from .convert import Converted, convert_workflow
from .embedded import kind_of, read_embedded
from .graph import WorkflowError

MAX_BYTES = 64 * 2**20


def parse_workflow(text: bytes, words: str) -> Any:
    """What a JSON text holds; NaN, which old servers wrote, reads as null, as on the page.

    Args:
        text: UTF-8.
        words: the beginning of the error's sentence: the file's name.

    Raises:
        WorkflowError: it is no JSON, or too long.
    """
    if len(text) > MAX_BYTES:
        raise WorkflowError(f"{words} is longer than {MAX_BYTES} bytes, expected a graph of ComfyUI.")
    try:
        return json.loads(text.decode("utf-8-sig"), parse_constant=lambda _: None)
    except RecursionError:
        raise WorkflowError(f"{words} is nested too deeply, expected a graph of ComfyUI.") from None
    except ValueError as error:
        raise WorkflowError(f"{words} is not JSON ({shorten(str(error))}), expected a graph of ComfyUI.") from None


def convert_file(
    path: str | os.PathLike, out: str | os.PathLike, report: str | os.PathLike | None = None, replaceable=()
) -> Converted:
    """Convert the graph in a file; without anything to convert in JSON, `out` gets the file's own bytes.

    Args:
        path: the file, which stays as it is: JSON, or a PNG, WebP, GIF, MP4 or WebM with a graph in it, of which the
            page's counts before the API's. An MP4 of core's needs PyAV, one of VideoHelperSuite's does not.
        out: where the converted graph goes, JSON.
        report: where its report goes.
        replaceable: see :func:`convert_workflow`.

    Raises:
        WorkflowError: the file is no graph; nothing is written.
        ValueError: two of the files are one.
        OSError: a file cannot be read or written; both are written or none.
    """
    names = [os.path.realpath(name) for name in (path, out, report) if name is not None]
    if len(set(names)) < len(names):
        raise ValueError(f"the workflow is {path}, `out` {out} and `report` {report}, expected different files.")
    kind = kind_of(path)
    text = b"" if kind is not None else read_bounded(Path(path), MAX_BYTES)
    data = parse_workflow(text, str(path)) if kind is None else read_embedded(path, kind)
    try:
        converted = convert_workflow(data, replaceable)
    except WorkflowError as error:
        raise WorkflowError(f"{path}: {error}") from None
    if converted.graph is not data or kind is not None:
        text = _dump(converted.graph, spaced=b"\n" in text.strip())
    contents = [text] if report is None else [text, _dump(converted.report.to_dict(), spaced=True)]
    with atomic_files([out] if report is None else [out, report]) as parts:
        for part, content in zip(parts, contents, strict=True):
            part.write_bytes(content)
    return converted


def _dump(data: Any, *, spaced: bool) -> bytes:
    form: dict[str, Any] = {"indent": 2} if spaced else {"separators": (",", ":")}
    return (json.dumps(data, ensure_ascii=False, **form) + "\n").encode("utf-8", "surrogatepass")
