"""The header of a safetensors file, checked by hand so that each defect gets a sentence of its own.

Format: eight bytes with the header's length (little endian), the header as JSON (name -> dtype, shape and byte range,
and an optional ``__metadata__`` of texts), then the values without holes.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import FileFormatError

_MAX_HEADER = 100_000_000
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
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path}: has a header that is not JSON ({error}), expected a safetensors file."
        ) from None
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: has a header of type {type(header).__name__}, expected a JSON object.")
    metadata = header.pop("__metadata__", None) or {}
    infos, ranges = {}, []
    for name, entry in header.items():
        infos[name], byte_range = _entry(path, name, entry)
        ranges.append((*byte_range, name))
    _check_ranges(path, ranges, size - 8 - length)
    return infos, {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, tuple[int, int]]:
    try:
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        dtype_name = entry["dtype"]
        if not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end)) or type(dtype_name) is not str:
            raise ValueError
    except (TypeError, KeyError, ValueError, IndexError):
        raise FileFormatError(
            f"{path}: the header entry of {name} is {str(entry)[:80]}, expected dtype, shape and data_offsets."
        ) from None
    dtype = _DTYPES.get(dtype_name)
    if dtype is None:
        raise FileFormatError(f"{path}: tensor {name} has dtype {dtype_name}, expected one of {', '.join(_DTYPES)}.")
    info = TensorInfo(shape, dtype)
    wanted = info.numel * dtype.itemsize
    if end - begin != wanted:
        raise FileFormatError(
            f"{path}: tensor {name} of shape {list(shape)} and dtype {dtype_name} takes {wanted} bytes, "
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
