"""How much a file may ask of its readers: its names, shapes and texts are bounded before anything is made of them.

The bounds are far above every model that exists. Within them, the work for a file is proportional to its size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import FileFormatError, shorten

MAX_TENSORS = 25_000
MAX_LETTERS = 100 * MAX_TENSORS
"""Of all names together."""
MAX_RANK = 8
MAX_NAME = 500
MAX_PARTS = 40
MAX_JSON = 2**20
"""Of a configuration or a description, in bytes; an index of shards may have 16 times as many."""


def check_name(path: str | Path, name: str) -> None:
    """Raise FileFormatError unless a tensor's name can be printed and is of a sensible length and depth."""
    if len(name) > MAX_NAME or name.count(".") >= MAX_PARTS:
        raise FileFormatError(
            f"{path}: has a tensor whose name is {len(name)} characters and {name.count('.') + 1} parts long "
            f"({shorten(name)}), expected at most {MAX_NAME} characters and {MAX_PARTS} parts."
        )
    if not name.isprintable():
        raise FileFormatError(f"{path}: has a tensor named {shorten(name)!a}, expected characters that can be printed.")


def check_shape(path: str | Path, name: str, shape: Sequence[int]) -> int:
    """The number of values in a tensor of this shape.

    Raises:
        FileFormatError: more dimensions or values than a tensor may have.
    """
    if len(shape) > MAX_RANK:
        raise FileFormatError(f"{path}: tensor {name} has {len(shape)} dimensions, expected at most {MAX_RANK}.")
    count, addressed = 1, 1
    for size in shape:
        count, addressed = count * size, addressed * max(size, 1)
    if addressed >= 2**63:
        raise FileFormatError(f"{path}: tensor {name} has shape {list(shape)}, expected fewer than 2**63 values.")
    return count


class NameBudget:
    """Counts the tensors of a file and the letters of their names, of which no model has so many."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.count, self.letters = path, 0, 0

    def add(self, name: str) -> None:
        """Take a name in.

        Raises:
            FileFormatError: see :func:`check_name`, or too many.
        """
        check_name(self.path, name)
        self.count, self.letters = self.count + 1, self.letters + len(name)
        if self.count > MAX_TENSORS or self.letters > MAX_LETTERS:
            raise FileFormatError(
                f"{self.path}: names more than {MAX_TENSORS} tensors, or by more than {MAX_LETTERS} letters together, "
                "expected at most so many."
            )


def parse_object(text: str | bytes, words: str, limit: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object of finite numbers.

    Args:
        text: as stored; bytes are UTF-8.
        words: the beginning of the error's sentence: the file's name, and what of it this is.

    Raises:
        FileFormatError: anything else, or more than `limit` characters.
    """
    if len(text) > limit:
        raise FileFormatError(f"{words} is {len(text)} characters long, expected at most {limit}.")
    try:
        content = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise FileFormatError(f"{words} is nested too deeply, expected a JSON object.") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise FileFormatError(f"{words} is not JSON ({shorten(str(error))}).") from None
    if not isinstance(content, dict):
        raise FileFormatError(f"{words} holds a {type(content).__name__}, expected a JSON object.")
    return content


def read_bounded(file: Path, limit: int = MAX_JSON) -> bytes:
    """The bytes of a file, of a longer one only so many that it is known to be too long."""
    with open(file, "rb") as stream:
        return stream.read(limit + 1)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
