"""Where PyTorch's two kinds of checkpoint keep their pickle and the values of their tensors.

Zip archives since PyTorch 1.6: ``data.pkl`` and one entry for each storage, none of them compressed. Before that: five
pickles, of which the fourth is the checkpoint and the fifth lists the storages, and then each storage behind the number
of its values. https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..values import quoted
from .errors import FileFormatError, shorten
from .pickle_values import Machine, PickleError, Storage

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_DIRECTORY = 16 * 2**20
"""Bytes of a zip archive's list of entries."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        value: what its pickle stands for.
        ranges: key of a storage -> where its values begin and end in the file.
        byteorder: of the values, ``little`` or ``big``.
    """

    value: Any
    ranges: Mapping[str, tuple[int, int]]
    byteorder: str = sys.byteorder


def read_zip(path: Path) -> Contents:
    """The contents of a zip archive.

    Raises:
        FileFormatError: no archive of PyTorch, or one with compressed entries.
        PickleError: its pickle is damaged or asks for more than tensors.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        entries = _entries(path, file, size)
        folders = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise FileFormatError(
                f"{path}: is a zip archive with {len(folders)} checkpoints (data.pkl), expected one: a checkpoint of "
                "PyTorch."
            )
        folder = folders[0]
        if f"{folder}constants.pkl" in entries:
            raise FileFormatError(f"{path}: is a TorchScript archive, expected a checkpoint, a dictionary of tensors.")
        byteorder: str = sys.byteorder
        if f"{folder}byteorder" in entries:
            byteorder = _bytes(file, entries[f"{folder}byteorder"], 16).decode("latin-1")
        if byteorder not in ("little", "big"):
            raise FileFormatError(f"{path}: has the byte order {quoted(byteorder)}, expected little or big.")
        value = Machine(io.BytesIO(_bytes(file, entries[f"{folder}data.pkl"])), size).load()
    start = f"{folder}data/"
    ranges = {name.removeprefix(start): place for name, place in entries.items() if name.startswith(start)}
    return Contents(value, ranges, byteorder)


def _bytes(file: io.BufferedReader, place: tuple[int, int], most: int | None = None) -> bytes:
    file.seek(place[0])
    return file.read(place[1] - place[0] if most is None else min(most, place[1] - place[0]))


def _entries(path: Path, file: io.BufferedReader, size: int) -> dict[str, tuple[int, int]]:
    """Name -> where the bytes of an entry begin and end."""
    try:
        if _directory_bytes(file, size) > _MAX_DIRECTORY:
            raise zipfile.BadZipFile("too many entries")
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        found, total = {}, 0
        for info in infos:
            total += info.file_size
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
                raise FileFormatError(
                    f"{path}: its entry {shorten(info.filename)} is compressed or encrypted, expected a checkpoint as "
                    "PyTorch writes it: if you zipped it yourself, unzip it."
                )
            file.seek(info.header_offset)
            signature, names, extras = struct.unpack("<4s22xHH", file.read(30))
            begin = info.header_offset + 30 + names + extras
            if signature != b"PK\x03\x04" or begin + info.file_size > size or total > size or info.filename in found:
                raise zipfile.BadZipFile(f"entry {shorten(info.filename)} lies outside the file or over another one")
            found[info.filename] = begin, begin + info.file_size
        return found
    except FileFormatError:
        raise
    except Exception as error:  # the reader raises whatever a damaged directory happens to hit
        raise PickleError(f"as a zip archive: {str(error) or type(error).__name__}".splitlines()[0][:120]) from None


def _directory_bytes(file: io.BufferedReader, size: int) -> int:
    """How long the list of entries says that it is."""
    file.seek(max(0, size - 2**16 - 22))
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + 22 > len(tail):
        raise zipfile.BadZipFile("its end is missing")
    length = struct.unpack("<I", tail[place + 12 : place + 16])[0]
    large = tail.rfind(b"PK\x06\x06", 0, place)
    if length == 0xFFFFFFFF and 0 <= large <= len(tail) - 48:
        length = struct.unpack("<Q", tail[large + 40 : large + 48])[0]
    return length


def read_legacy(path: Path) -> Contents:
    """The contents of a checkpoint of the form before zip archives.

    Raises:
        FileFormatError: truncated, or of another byte order.
        PickleError: no such checkpoint.
    """
    size = path.stat().st_size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        machine = Machine(stream, size)
        # Judged before it is known to be PyTorch's: any pickle may ask for code.
        if machine.load() != _MAGIC or machine.load() != _PROTOCOL:
            raise PickleError("a pickle of another program")
        info = machine.load()
        if isinstance(info, dict) and info.get("little_endian", True) is not (sys.byteorder == "little"):
            raise FileFormatError(f"{path}: was written with another byte order, expected that of this computer.")
        value, keys = machine.load(), machine.load()
        if not isinstance(keys, list):
            raise PickleError("no list of storages")
        ranges, place = {}, stream.tell()
        for key in keys:
            storage = machine.storages.get(key) if isinstance(key, str) else None
            if storage is None or key in ranges:
                raise PickleError("storages that no tensor is made of")
            begin, end = place + 8, place + 8 + storage.count * storage.dtype.itemsize
            if end > size:
                raise FileFormatError(
                    f"{path}: is truncated, its storages should end at byte {end} at least and the file ends at byte "
                    f"{size}."
                )
            count = struct.unpack("<q", stream[place:begin])[0]
            if count != storage.count:
                raise PickleError(f"a storage of {count} values where its tensor says {storage.count}")
            ranges[key], place = (begin, end), end
    return Contents(value, ranges)


def stored_range(contents: Contents, storage: Storage) -> tuple[int, int] | None:
    """Where a storage's values are; None where the file does not hold all of them."""
    begin, end = contents.ranges.get(storage.key, (0, -1))
    return (begin, end) if 0 <= storage.count * storage.dtype.itemsize <= end - begin else None
