"""Putting stored tensors into a model that was built without values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..motion import sinusoidal_table
from .animatediff import check_same_tables, restore_table
from .errors import FileFormatError
from .expected import is_table
from .reading import Stored

Model = TypeVar("Model", bound=nn.Module)
_SMALL = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)


def choose_dtype(
    dtype: torch.dtype | None, stored: torch.dtype | None, own_layers: bool, path: str | Path
) -> torch.dtype | None:
    """The dtype to load in: the one asked for, else the file's.

    Raises:
        FileFormatError: the file is in 8 bits, which ``torch.nn``'s layers cannot compute in, and none was asked for.
    """
    if dtype is None and stored in _SMALL and not own_layers:
        raise FileFormatError(
            f"{path}: is stored in {str(stored).removeprefix('torch.')}, in which the layers of torch.nn cannot "
            "compute: give a `dtype`, for example torch.float16."
        )
    return dtype or stored


def read_all(
    stored: Mapping[str, Stored | list[Stored]], dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Read the tensors of a model, each checked for NaN; several of one name must be equal position tables."""
    tensors = {}
    for name, entries in stored.items():
        entries = entries if isinstance(entries, list) else [entries]
        path, keys = entries[0].source.path, [entry.key for entry in entries]
        if is_table(name):
            tables = [entry.read(None, "cpu") for entry in entries]
            check_same_tables(path, keys, tables)
            tensors[name] = restore_table(tables[0], dtype, device)
        else:
            if len(entries) > 1:
                raise FileFormatError(f"{path}: {' and '.join(keys)} both stand for {name}, expected one of them.")
            tensors[name] = entries[0].read(dtype, device)
    return tensors


def assign(model: Model, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None, device) -> Model:
    """Give a model on the meta device its values, without a copy, and computed position tables where they lack.

    The names must have been checked: any that is missing but a position table is an error here.
    """
    tensors = dict(tensors)
    for name, value in model.state_dict().items():
        if name not in tensors and is_table(name):
            tensors[name] = sinusoidal_table(value.shape[1], value.shape[2]).to(device=device, dtype=dtype)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval()


def initialise(model: nn.Module, names: Iterable[str], dtype: torch.dtype | None, device) -> dict[str, torch.Tensor]:
    """Starting values, as a new model has them, for parameters of a model on the meta device.

    Raises:
        KeyError: a name that no layer can start by itself.
    """
    by_layer: dict[str, list[str]] = {}
    for name in names:
        layer, _, leaf = name.rpartition(".")
        by_layer.setdefault(layer, []).append(leaf)
    values = {}
    for name, leaves in by_layer.items():
        layer = model.get_submodule(name)
        fresh = _start(layer, name, dtype or torch.get_default_dtype(), device)
        values.update({f"{name}.{leaf}": fresh[leaf] for leaf in leaves})
    return values


def _start(layer: nn.Module, name: str, dtype: torch.dtype, device) -> dict[str, torch.Tensor]:
    """Normal values for a layer with a weight: ones for norms, zeros for a motion module's output, else random."""
    weight = layer.weight
    value = torch.empty(weight.shape, dtype=dtype, device=device)
    bias = torch.zeros(weight.shape[0], dtype=dtype, device=device)
    if weight.dim() == 1:
        return {"weight": value.fill_(1), "bias": bias}
    if ".motion_modules." in name and name.endswith(".proj_out"):
        return {"weight": value.zero_(), "bias": bias}
    bound = weight[0].numel() ** -0.5
    return {"weight": value.uniform_(-bound, bound), "bias": bias.uniform_(-bound, bound)}
