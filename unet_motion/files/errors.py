"""What can be wrong with a file of weights. Each message names the file, what was found and what was expected."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


_LONGEST, _LONGEST_PATH = 590, 280


class FileFormatError(ValueError):
    """A file that is damaged, of another kind, or does not fit; nothing of it was kept.

    Its text is one line of fewer than 600 characters that can be printed anywhere, whatever the file holds.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(one_line(text))


class UnsafeFileError(FileFormatError):
    """A pickle that asks for more than tensors; none of its code was run."""


class WrongKindError(FileFormatError):
    """A sound file of another kind than the one asked for."""


class KeyMismatchError(FileFormatError):
    """Tensors that are missing, not expected, or of another shape than the model has."""


class BadWeightsError(FileFormatError):
    """A tensor that holds NaN or infinite values."""


def shorten(text: str, limit: int = 100) -> str:
    """A text that came out of a file, with its middle left out where it is long."""
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[3 - limit + limit // 2 :]}"


def one_line(text: str) -> str:
    """An error's text that begins with a path, as one line that can be printed anywhere, cut where it is long."""
    path, mark, rest = text[: 10 * _LONGEST].partition(": ")
    if mark and len(path) > _LONGEST_PATH:
        text = f"...{path[3 - _LONGEST_PATH :]}: {text[len(path) + 2 :]}"
    text = shorten(text, _LONGEST)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shorten(text, _LONGEST)


def name_some(keys: Iterable[str], limit: int = 4) -> str:
    """``"a, b, c, d and 12 more"``: enough names to act on, in a sentence that stays readable."""
    keys = list(keys)
    shown = ", ".join(shorten(str(key)) for key in keys[:limit])
    return shown if len(keys) <= limit else f"{shown} and {len(keys) - limit} more"


def check_exists(path: str | Path) -> Path:
    """The path, or FileNotFoundError with a sentence that names it."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    return path


def warn_caller(message: str) -> None:
    """Warn at the line that called this package, however deep in it the warning comes up."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
