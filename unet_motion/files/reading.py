"""Opening files of weights: what they hold is known from their headers, tensors are read one at a time.

Safetensors files are memory-mapped, and so are PyTorch's: a tensor that is read without a change of dtype or device
is the mapped file itself. Pickles are judged by their opcodes, and nothing in them is run or built.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import BadWeightsError, FileFormatError, KeyMismatchError, check_exists, name_some
from .no_gc import loading
from .pickles import PickledTensors
from .safetensors_header import TensorInfo, read_header
from .sniffing import sniff


class TensorSource:
    """Named tensors in one file or in several shards.

    Attributes:
        path: the file or folder that errors name.
        infos: name -> shape and dtype, from the headers alone where the format allows it.
        metadata: the text entries of safetensors headers.
    """

    def __init__(self, path: Path, files: Iterable[OpenFile]) -> None:
        self.path = path
        self.infos: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self._owner: dict[str, OpenFile] = {}
        for file in files:
            twice = self.infos.keys() & file.infos.keys()
            if twice:
                raise FileFormatError(
                    f"{path}: {name_some(sorted(twice))} stored in more than one shard, expected once."
                )
            self.infos.update(file.infos)
            self.metadata.update(file.metadata)
            self._owner.update(dict.fromkeys(file.infos, file))

    def keys(self) -> list[str]:
        return list(self.infos)

    def read(
        self, key: str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", check: bool = True
    ) -> torch.Tensor:
        """One tensor, cast if it is a floating-point one, refused if it holds NaN or infinite values."""
        try:
            tensor = self._owner[key].read(key)
        except KeyError:
            raise KeyMismatchError(f"{self.path}: no tensor {key}.") from None
        if check:
            check_finite(tensor, key, self.path)
        if dtype is not None and not tensor.is_floating_point():
            dtype = None
        return tensor.to(device=device, dtype=dtype)

    def float_dtype(self, keys: Iterable[str] | None = None) -> torch.dtype | None:
        """The floating-point dtype that holds most of the values, or None without any."""
        sizes: dict[torch.dtype, int] = {}
        for key in self.infos if keys is None else keys:
            info = self.infos[key]
            if info.dtype.is_floating_point:
                sizes[info.dtype] = sizes.get(info.dtype, 0) + info.numel
        return max(sizes, key=sizes.__getitem__) if sizes else None


class OpenFile(ABC):
    """One file; ``read`` gives a tensor by name."""

    infos: dict[str, TensorInfo]
    metadata: Mapping[str, str] = {}

    @abstractmethod
    def read(self, key: str) -> torch.Tensor:
        """The tensor of that name, or KeyError."""


class _SafetensorsFile(OpenFile):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.infos, self.metadata = read_header(path)
        self._handle: Any = None

    def read(self, key: str) -> torch.Tensor:
        if key not in self.infos:
            raise KeyError(key)
        try:
            if self._handle is None:
                self._handle = safe_open(self.path, framework="pt", device="cpu")
            return self._handle.get_tensor(key)
        except SafetensorError as error:
            raise FileFormatError(f"{self.path}: tensor {key} cannot be read ({error}).") from error


class _PickleFile(OpenFile):
    def __init__(self, path: Path, kind: str) -> None:
        self._pickled = PickledTensors(path, kind)
        self.infos = {k: TensorInfo(t.shape, t.dtype) for k, t in self._pickled.tensors.items()}

    def read(self, key: str) -> torch.Tensor:
        return self._pickled.read(key)


def _open_file(path: Path) -> OpenFile:
    kind = sniff(path)
    with loading():
        file = _SafetensorsFile(path) if kind == "safetensors" else _PickleFile(path, kind)
    if not file.infos:
        raise FileFormatError(f"{path}: holds no tensors, expected the weights of a model.")
    return file


def open_tensors(path: str | Path) -> TensorSource:
    """Open one file, whatever its name says; safetensors headers are checked in full here.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is not a sound file of tensors.
    """
    path = check_exists(path)
    if path.is_dir():
        raise FileFormatError(f"{path}: is a folder, expected a file of weights.")
    return TensorSource(path, [_open_file(path)])


def open_shards(folder: Path, files: Iterable[Path]) -> TensorSource:
    """Open several files as one set of tensors."""
    return TensorSource(folder, [_open_file(file) for file in files])


def check_finite(tensor: torch.Tensor, key: str, path: str | Path) -> None:
    """Raise BadWeightsError if a floating-point tensor holds NaN or infinity.

    A sum is not finite if any of its terms is not, and costs one read without a temporary copy; only a sum that
    overflowed by itself needs the second look, which goes in small parts.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    if tensor.element_size() == 1:
        tensor = tensor.to(torch.float16)
    if math.isfinite(tensor.sum().item()):
        return
    bad = tensor.numel() - sum(int(torch.isfinite(part).sum()) for part in tensor.flatten().split(2**20))
    if bad:
        raise BadWeightsError(
            f"{path}: tensor {key} holds {bad} NaN or infinite of {tensor.numel()} values, expected finite weights."
        )


@dataclass(frozen=True)
class Stored:
    """Where the value of one parameter is to come from: a name in a source."""

    source: TensorSource
    key: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.infos[self.key].shape

    def read(self, dtype: torch.dtype | None, device: torch.device | str) -> torch.Tensor:
        return self.source.read(self.key, dtype, device)
