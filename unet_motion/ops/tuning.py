"""Tiles and warps of the Triton kernels that were the fastest where they were measured: data, by compute capability.

A file of `tuned/`, such as `9.0.json`, holds a list of entries of the form
``{"kernel": "geglu", "dtype": "float16", "sizes": {"width": 1280}, "use": {"ROWS": 4, "BLOCK": 512, "num_warps": 4}}``;
`unet-motion bench --card` writes such files. What was not measured runs with the launchers' own numbers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from ..values import quoted

FOLDER = Path(__file__).with_name("tuned")
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


def entries_of(kernel: str, device: torch.device, dtype: torch.dtype) -> int:
    """At how many sizes a kernel was measured on such a device."""
    if device.type != "cuda":
        return 0
    return sum(key[:2] == (kernel, _name(dtype)) for key in _table(capability(device)))


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
    return read(path) if path.is_file() else {}


def read(path: Path) -> dict[tuple, Mapping[str, int]]:
    """(kernel, dtype, sorted sizes) -> what to use, from a file.

    Raises:
        ValueError: the file is no list of such entries, or names a kernel or a parameter that there is not.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {_key(entry): _checked(entry["kernel"], entry["use"], path.name) for entry in entries}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        expected = "expected a list of entries with kernel, dtype, sizes and use"
        raise ValueError(f"{path}: {expected}: {quoted(error)}.") from None


def _key(entry: Mapping[str, Any]) -> tuple:
    return entry["kernel"], entry["dtype"], tuple(sorted(entry["sizes"].items()))


def _checked(kernel: str, use: Mapping[str, int], where: str) -> dict[str, int]:
    if kernel not in PARAMETERS:
        raise ValueError(f"{where}: kernel {quoted(kernel)} is unknown; expected one of {', '.join(PARAMETERS)}.")
    for name, value in use.items():
        if name not in PARAMETERS[kernel]:
            known = ", ".join(PARAMETERS[kernel])
            raise ValueError(f"{where}: {kernel} has no {quoted(name)}; expected some of {known}.")
        if name == "num_stages":
            if type(value) is not int or not 1 <= value <= MOST_STAGES:
                expected = f"expected a whole number from 1 to {MOST_STAGES}"
                raise ValueError(f"{where}: {name} of {kernel} is {quoted(value)}, {expected}.")
        elif not isinstance(value, int) or value < 1 or value & (value - 1):
            raise ValueError(f"{where}: {name} of {kernel} is {quoted(value)}, expected a power of two.")
    return dict(use)
