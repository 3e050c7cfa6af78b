"""The header of a safetensors file, checked by hand so that each defect gets a sentence of its own.

Format: eight bytes with the header's length (little endian), the header as JSON (name -> dtype, shape and byte range,
and an optional ``__metadata__`` of texts), then the values without holes.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import FileFormatError, shorten
from .limits import MAX_TENSORS, NameBudget, check_shape

_MAX_HEADER = 100_000_000
_MAX_ENTRIES = 2 * MAX_TENSORS
_MAX_METADATA = 10_000
_MAX_ENTRY = 1000
"""Characters of what a header says of one tensor."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
for _name, _dtype in (("U16", "uint16"), ("U32", "uint32"), ("U64", "uint64")):
    if hasattr(torch, _dtype):
        _DTYPES[_name] = getattr(torch, _dtype)


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Names with shape and dtype, and the metadata.

    Raises:
        FileFormatError: truncated, too long, or not the format above.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise FileFormatError(
                f"{path}: announces a header of {length} bytes, expected a safetensors header of at most {_MAX_HEADER}."
            )
        if 8 + length > size:
            raise FileFormatError(
                f"{path}: is truncated, its header should end at byte {8 + length} and the file ends at byte {size}."
            )
        raw = file.read(length)
    infos, ranges, metadata, budget = {}, [], {}, NameBudget(path)
    try:
        scanner = _Scanner(raw.decode("utf-8"))
        for name in scanner.names(_MAX_ENTRIES):
            if name == "__metadata__":
                metadata = _metadata(path, scanner)
                continue
            if name in infos:
                raise FileFormatError(f"{path}: names the tensor {shorten(name)} twice, expected once.")
            budget.add(name)
            infos[name], byte_range = _entry(path, name, scanner)
            ranges.append((*byte_range, name))
        scanner.finish()
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(
            f"{path}: has a header that is not JSON ({shorten(str(error))}), expected a safetensors file."
        ) from None
    _check_ranges(path, ranges, size - 8 - length)
    return infos, metadata


class _Scanner:
    """Goes through the JSON of a header, and makes nothing of it before it is known to be wanted.

    So a hostile header costs no more than what was accepted of it; its errors are ValueError.
    """

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def take(self, mark: str) -> bool:
        """Step over a mark and the space behind it, if it is there."""
        if not self.text.startswith(mark, self.place):
            return False
        self.place += len(mark)
        if space := _SPACE.match(self.text, self.place):
            self.place = space.end()
        return True

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            raise ValueError(f"{self.text[self.place : self.place + 20]!r} at character {self.place}, not {mark!r}")

    def string(self) -> str:
        if not self.text.startswith('"', self.place):
            raise ValueError(f"{self.text[self.place : self.place + 20]!r} at character {self.place}, not a text")
        value, self.place = _DECODER.raw_decode(self.text, self.place)
        self.take("")
        return value

    def names(self, limit: int) -> Iterator[str]:
        """The names in an object; at each the caller steps over the value."""
        self.expect("{")
        for count in range(limit):
            if self.take("}"):
                return
            if count:
                self.expect(",")
            name = self.string()
            self.expect(":")
            yield name
        self.expect("}")

    def flat_object(self, longest: int) -> str:
        """The text of an object without texts that hold a brace, empty if it is longer."""
        end = self.text.find("}", self.place, self.place + longest) + 1
        text = self.text[self.place : end]
        self.place = max(end, self.place)
        self.take("")
        return text

    def finish(self) -> None:
        if self.place < len(self.text):
            raise ValueError(f"more behind its end at character {self.place}")


def _metadata(path: Path, scanner: _Scanner) -> dict[str, str]:
    """An object of texts; none at all is an empty one."""
    found: dict[str, str] = {}
    if scanner.take("null"):
        return found
    for name in scanner.names(_MAX_METADATA):
        if not scanner.text.startswith('"', scanner.place):
            value = scanner.text[scanner.place : scanner.place + 40]
            raise FileFormatError(f"{path}: the entry {shorten(name)} of its __metadata__ is {value}, expected a text.")
        found[name] = scanner.string()
    return found


def _entry(path: Path, name: str, scanner: _Scanner) -> tuple[TensorInfo, tuple[int, int]]:
    shown = scanner.text[scanner.place : scanner.place + 80]
    try:
        entry = json.loads(scanner.flat_object(_MAX_ENTRY))
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        dtype_name = entry["dtype"]
        if not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end)) or type(dtype_name) is not str:
            raise ValueError
    except (TypeError, KeyError, ValueError, IndexError, RecursionError):
        raise FileFormatError(
            f"{path}: the header entry of {shorten(name)} is {shown}, expected dtype, shape and data_offsets."
        ) from None
    dtype = _DTYPES.get(dtype_name)
    if dtype is None:
        raise FileFormatError(
            f"{path}: tensor {shorten(name)} has dtype {shorten(dtype_name, 40)}, expected one of {', '.join(_DTYPES)}."
        )
    info = TensorInfo(shape, dtype)
    wanted = check_shape(path, name, shape) * dtype.itemsize
    if end - begin != wanted:
        raise FileFormatError(
            f"{path}: tensor {shorten(name)} of shape {list(shape)} and dtype {dtype_name} takes {wanted} bytes, "
            f"its data_offsets {begin} to {end} hold {end - begin}."
        )
    return info, (begin, end)


def _check_ranges(path: Path, ranges: list[tuple[int, int, str]], stored: int) -> None:
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            raise FileFormatError(
                f"{path}: the values of {name} start at byte {begin} of the data, expected {position}: "
                "the header does not fit the file."
            )
        position = end
    if position > stored:
        raise FileFormatError(
            f"{path}: is truncated, its header promises {position} bytes of weights and the file holds {stored}."
        )
    if position < stored:
        raise FileFormatError(
            f"{path}: has {stored - position} bytes after the last tensor, expected the file to end there."
        )
