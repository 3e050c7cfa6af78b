"""Telling a container format from the first bytes of a file, whatever the file is called."""

from __future__ import annotations

from pathlib import Path

from .errors import FileFormatError

EXPECTED = "expected a safetensors file or a PyTorch checkpoint"

_FOREIGN = (
    (b"version https://git-lfs", "is a Git LFS pointer, the weights themselves were never downloaded"),
    (b"GGUF", "is a GGUF file"),
    (b"<!doctype", "is a web page, probably a download that failed"),
    (b"<html", "is a web page, probably a download that failed"),
    (b"<?xml", "is an XML document, probably a download that failed"),
    (b"\x89png", "is a PNG picture"),
    (b"\xff\xd8\xff", "is a JPEG picture"),
    (b"riff", "is a WebP picture or a sound"),
    (b"gif8", "is a GIF picture"),
    (b"\x1f\x8b", "is a gzip archive"),
    (b"7z\xbc\xaf", "is a 7-zip archive"),
    (b"\x89hdf", "is an HDF5 file"),
    (b"{", "is a JSON text"),
)


def sniff(path: Path) -> str:
    """``safetensors``, ``zip`` (PyTorch since 1.6) or ``pickle`` (older PyTorch).

    Raises:
        FileFormatError: the file is empty or something else.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise FileFormatError(f"{path}: is empty, {EXPECTED}.")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5 and head[8:9] != b"{":
        return "pickle"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    lowered = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for magic, words in _FOREIGN:
        if lowered.startswith(magic.lower()):
            raise FileFormatError(f"{path}: {words}, {EXPECTED}.")
    if not head.strip(b"\0"):
        raise FileFormatError(f"{path}: starts with zero bytes only, probably a download that failed, {EXPECTED}.")
    if len(head) <= 8:
        raise FileFormatError(f"{path}: is {len(head)} bytes long, too short for a header, {EXPECTED}.")
    raise FileFormatError(f"{path}: starts with bytes {head[:8].hex(' ')} of no known format, {EXPECTED}.")
