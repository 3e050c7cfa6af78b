"""PyTorch checkpoints (``.ckpt``, ``.pt``, ``.pth``, ``.bin``) without unpickling: no code is run, no object is built.

What the pickle would build is found out from its opcodes (:mod:`pickle_values`); tensors are then looked up in the
file. Opening a checkpoint costs what reading its pickle costs, which is small beside its tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from .errors import FileFormatError, UnsafeFileError, shorten
from .limits import NameBudget, check_shape
from .pickle_files import Contents, read_legacy, read_zip, stored_range
from .pickle_values import AsksForCodeError, OddTensor, Opaque, PickleError, Tensor
from .sniffing import EXPECTED

_WRAPPERS = ("state_dict", "model_state_dict", "module", "model", "params", "weights")
_DEEPEST = 3
_MOST_VIEWS = 4
"""How often the file's size all its tensors may take together: some storages are shared."""


class PickledTensors:
    """The tensors of a checkpoint, read one at a time from the mapped file.

    Args:
        kind: ``zip`` or ``pickle``.

    Raises:
        UnsafeFileError: the pickle asks for anything but tensors and plain values.
        FileFormatError: damaged, or not a dictionary of tensors.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        try:
            self._contents = read_zip(path) if kind == "zip" else read_legacy(path)
        except AsksForCodeError as error:
            raise UnsafeFileError(
                f"{path}: is a pickle that asks to run or build `{shorten(error.args[0])}`, expected tensors only; "
                "nothing of it was run. If you trust its source, have it converted to safetensors."
            ) from None
        except PickleError as error:
            raise FileFormatError(f"{path}: is damaged or truncated ({error}), {EXPECTED}.") from None
        content = self._contents.value
        found = _state_dict(content, set())
        if found is None:
            raise FileFormatError(
                f"{path}: holds {_describe(content)}, expected a dictionary of tensors or one with a `state_dict`."
            )
        self.tensors = dict(_checked(path, self._contents, found))
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._mapped: torch.UntypedStorage | None = None

    def read(self, name: str) -> torch.Tensor:
        """The tensor of a name; it is the mapped file itself where its place in it allows that."""
        tensor = self.tensors[name]
        if 0 in tensor.shape:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        if tensor.storage.key not in self._storages:
            self._storages[tensor.storage.key] = self._storage(tensor)
        values = torch.empty(0, dtype=tensor.dtype)
        return values.set_(self._storages[tensor.storage.key], tensor.offset, tensor.shape, tensor.stride)

    def _storage(self, tensor: Tensor) -> torch.UntypedStorage:
        place = stored_range(self._contents, tensor.storage)
        assert place is not None  # as all tensors were checked before
        begin, end = place
        if self._mapped is None:
            self._mapped = cast(
                torch.UntypedStorage,
                torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size),
            )
        storage = cast(torch.UntypedStorage, self._mapped[begin:end])
        if begin % tensor.dtype.itemsize or self._contents.byteorder != sys.byteorder:
            storage = storage.clone()
            if self._contents.byteorder != sys.byteorder:
                storage.byteswap(tensor.dtype)
        return storage


def _checked(path: Path, contents: Contents, found: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a dictionary, of which each is known to lie in the file."""
    total, size, budget = 0, path.stat().st_size, NameBudget(path)
    for key, tensor in found.items():
        if not isinstance(tensor, (Tensor, OddTensor)):
            continue
        name = str(key)
        budget.add(name)
        if isinstance(tensor, OddTensor):
            raise FileFormatError(f"{path}: tensor {name} is {tensor.words}, expected a plain one.")
        values = check_shape(path, name, tensor.shape)
        last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True))
        held = tensor.storage.count * tensor.storage.dtype.itemsize
        needed = (tensor.offset + last + 1) * tensor.dtype.itemsize if values else 0
        if needed > held or values * tensor.dtype.itemsize > held or stored_range(contents, tensor.storage) is None:
            raise FileFormatError(
                f"{path}: tensor {name} of shape {list(tensor.shape)} and dtype "
                f"{str(tensor.dtype).removeprefix('torch.')} needs more than what is stored of it, expected all of its "
                "values; the file is damaged or truncated."
            )
        total += values * tensor.dtype.itemsize
        if total > _MOST_VIEWS * size:
            raise FileFormatError(
                f"{path}: its tensors take more than {_MOST_VIEWS} times the {size} bytes of the file, expected that "
                "few of them share their values."
            )
        yield name, tensor


def _state_dict(content: Any, seen: set[tuple[int, int]], depth: int = 0) -> dict[Any, Any] | None:
    """The innermost dictionary that holds tensors."""
    if not isinstance(content, dict) or depth > _DEEPEST or (id(content), depth) in seen:
        return None
    seen.add((id(content), depth))
    names = [name for name in _WRAPPERS if isinstance(content.get(name), dict)]
    if "state_dict" not in names and any(isinstance(value, (Tensor, OddTensor)) for value in content.values()):
        return content
    for name in names or [k for k, v in content.items() if isinstance(v, dict)]:
        found = _state_dict(content[name], seen, depth + 1)
        if found is not None:
            return found
    return None


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        keys = ", ".join(shorten(str(k), 60) for k in list(content)[:4])
        return f"a dictionary without tensors (keys: {keys})" if keys else "an empty dictionary"
    if isinstance(content, (Tensor, OddTensor)):
        return "an object of type Tensor"
    return content.words if isinstance(content, Opaque) else f"an object of type {type(content).__name__}"
