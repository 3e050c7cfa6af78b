"""Tiles and warps of the Triton kernels that were the fastest where they were measured: data, by compute capability.

A file of `tuned/`, such as `9.0.json`, holds a list of entries of the form
``{"kernel": "geglu", "dtype": "float16", "sizes": {"width": 1280}, "use": {"ROWS": 4, "BLOCK": 512, "num_warps": 4}}``;
`unet-motion bench --card` writes such files. What was not measured runs with the launchers' own numbers.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from ..values import quoted

FOLDER = Path(__file__).with_name("tuned")
SIZES = {
    "float8": ("width",),
    "freeu": ("left", "right", "pixels"),
    "geglu": ("width",),
    "geglu_product": ("rows", "depth", "width"),
    "group_norm": ("rows", "channels"),
    "layer_norm": ("width",),
    "residual_sum": ("width",),
    "temporal_attention": ("frames", "width"),
}
"""Kernel -> the sizes by which an entry is found."""

PARAMETERS = {
    "float8": ("ROWS", "BLOCK", "num_warps"),
    "freeu": ("PIECE", "BLOCK", "num_warps"),
    "geglu": ("ROWS", "BLOCK", "num_warps"),
    "geglu_product": ("ROWS", "BLOCK", "DEPTH", "GROUP", "num_warps", "num_stages"),
    "group_norm": ("PIECE", "BLOCK", "num_warps"),
    "layer_norm": ("ROWS", "num_warps"),
    "residual_sum": ("ROWS", "BLOCK", "num_warps"),
    "temporal_attention": ("TILE", "CHUNK", "num_warps"),
}
"""Kernel -> what may be chosen for it."""

MOST_STAGES = 8
"""Parts of its input that a product has under way at most; all else that may be chosen is a power of two."""

MOST = {"num_warps": 32, "TILE": 256, "DEPTH": 256}
MOST_NUMBERS = 4096
"""The largest numbers that may be chosen: warps that a program can have, sides of a product, all else."""

DTYPES = ("float16", "bfloat16", "float32")

Forced = tuple[str, Mapping[str, int], list[Mapping[str, int]]]
"""A kernel, what it uses, and the sizes that were asked for."""

_forced: ContextVar[Forced | None] = ContextVar("unet_motion_tuning", default=None)


@contextmanager
def choosing(kernel: str, **use: int) -> Iterator[list[Mapping[str, int]]]:
    """Run the block with these tiles and warps of one kernel, whatever was measured; for whoever measures.

    Gives a list to which each launch adds the sizes that an entry for it has.
    """
    asked: list[Mapping[str, int]] = []
    token = _forced.set((kernel, _checked(kernel, use, "choosing"), asked))
    try:
        yield asked
    finally:
        _forced.reset(token)


def tuned(kernel: str, device: torch.device, dtype: torch.dtype, **sizes: int) -> Mapping[str, int]:
    """What to use in place of a launcher's own numbers, possibly nothing; ``sizes`` name a kernel's shape."""
    forced = _forced.get()
    if forced is not None and forced[0] == kernel:
        forced[2].append(sizes)
        return forced[1]
    return _found(kernel, device.type, device.index, dtype, tuple(sizes.items())) or {}


def is_chosen(kernel: str, device: torch.device, dtype: torch.dtype, **sizes: int) -> bool:
    """Whether there is an entry for these sizes, or `choosing` is about this kernel."""
    forced = _forced.get()
    if forced is not None and forced[0] == kernel:
        return True
    return _found(kernel, device.type, device.index, dtype, tuple(sizes.items())) is not None


def measured_sizes(kernel: str, device: torch.device, dtype: torch.dtype) -> list[dict[str, int]]:
    """The sizes at which a kernel was measured on such a device, in the order of its `SIZES`."""
    if device.type != "cuda":
        return []
    found = (dict(key[2]) for key in _table(capability(device)) if key[:2] == (kernel, _name(dtype)))
    return [{name: sizes[name] for name in SIZES[kernel]} for sizes in found]


def warps(chosen: Mapping[str, int]) -> dict[str, int]:
    """The launch's own argument where warps were chosen, else Triton's default."""
    return {"num_warps": chosen["num_warps"]} if "num_warps" in chosen else {}


@functools.lru_cache(maxsize=1024)
def _found(kernel: str, kind: str, index: int | None, dtype: torch.dtype, sizes: tuple) -> Mapping[str, int] | None:
    if kind != "cuda":
        return None
    device = torch.device(kind if index is None else f"{kind}:{index}")
    return _table(capability(device)).get((kernel, _name(dtype), tuple(sorted(sizes))))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def capability(device: torch.device) -> str:
    """Such as "9.0", the name of a device's file."""
    return "{}.{}".format(*torch.cuda.get_device_capability(device))


@functools.lru_cache
def _table(name: str) -> dict[tuple, Mapping[str, int]]:
    path = FOLDER / f"{name}.json"
    try:
        return read(path) if path.is_file() else {}
    except (OSError, ValueError) as error:  # it makes steps faster, and must stop none
        logging.getLogger(__name__).warning("Kernels run with their own tiles: %s", error)
        return {}


def read(path: Path) -> dict[tuple, Mapping[str, int]]:
    """(kernel, dtype, sorted sizes) -> what to use, from a file.

    Raises:
        ValueError: the file is no list of such entries, or names a kernel, a size or a parameter that there is not.
    """
    expected = "expected a list of entries with kernel, dtype, sizes and use"
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # no text, no JSON, or a number of thousands of digits
        raise ValueError(f"{path}: {expected}: {quoted(error)}.") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {expected}, found {quoted(entries)}.")
    found: dict[tuple, Mapping[str, int]] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), dict) for key in ("sizes", "use")):
            raise ValueError(f"{where}: {expected}, found {quoted(entry)}.")
        use = _checked(entry.get("kernel"), entry["use"], where)
        found[_key(entry, where)] = use
    return found


def _key(entry: Mapping[str, Any], where: str) -> tuple:
    """Kernel, dtype and sorted sizes of an entry, whose kernel there is."""
    kernel, dtype, sizes = entry["kernel"], entry.get("dtype"), entry["sizes"]
    if dtype not in DTYPES:
        raise ValueError(f"{where}: dtype is {quoted(dtype)}, expected one of {', '.join(DTYPES)}.")
    if set(sizes) != set(SIZES[kernel]) or not all(type(size) is int and size > 0 for size in sizes.values()):
        named = ", ".join(SIZES[kernel])
        raise ValueError(f"{where}: sizes of {kernel} are {quoted(sizes)}, expected whole numbers named {named}.")
    return kernel, dtype, tuple(sorted(sizes.items()))


def _checked(kernel: Any, use: Mapping[str, int], where: str) -> dict[str, int]:
    if not isinstance(kernel, str) or kernel not in PARAMETERS:
        raise ValueError(f"{where}: kernel {quoted(kernel)} is unknown; expected one of {', '.join(PARAMETERS)}.")
    for name, value in use.items():
        if name not in PARAMETERS[kernel]:
            known = ", ".join(PARAMETERS[kernel])
            raise ValueError(f"{where}: {kernel} has no {quoted(name)}; expected some of {known}.")
        if name == "num_stages":
            if type(value) is not int or not 1 <= value <= MOST_STAGES:
                expected = f"expected a whole number from 1 to {MOST_STAGES}"
                raise ValueError(f"{where}: {name} of {kernel} is {quoted(value)}, {expected}.")
        elif type(value) is not int or not 1 <= value <= MOST.get(name, MOST_NUMBERS) or value & (value - 1):
            expected = f"expected a power of two up to {MOST.get(name, MOST_NUMBERS)}"
            raise ValueError(f"{where}: {name} of {kernel} is {quoted(value)}, {expected}.")
    return dict(use)
