"""Files of tensors, written whole or not at all; a write that fails is an OSError that names the file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .atomic import atomic_file

_CODE = re.compile(r"os error (\d+)")


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file.

    Args:
        tensors: each with memory of its own, contiguous.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    with atomic_file(path) as part:
        fill_safetensors(tensors, part, path, metadata)


def fill_safetensors(
    tensors: Mapping[str, Tensor], part: Path, path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to ``part``, the temporary name of ``path``, which errors name."""
    with as_os_error(path):
        save_file(dict(tensors), part, metadata=None if metadata is None else dict(metadata))


def fill_pickle(tensors: Mapping[str, Tensor], part: Path, path: Path) -> None:
    """Write tensors as PyTorch's own checkpoint, see :func:`fill_safetensors`."""
    with as_os_error(path):
        torch.save(dict(tensors), part)


@contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """Make an OSError that names the file of what the two libraries raise where a write fails."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        code = _CODE.search(str(error))
        if code is not None:
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        reason = str(error).splitlines()[0][:200]
        raise OSError(f"{path}: cannot be written, expected room on the disk ({reason}).") from error
