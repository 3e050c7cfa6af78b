"""Putting stored tensors into a model that was built without values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ..ops.sinusoids import sinusoidal_table
from .claims import check_dimensions, check_floats
from .errors import FileFormatError, KeyMismatchError, name_some
from .names import is_image_layer, is_table
from .position_tables import check_same_tables, restore_table
from .reading import Stored

Model = TypeVar("Model", bound=nn.Module)
_MOST_ADAPTERS = 16
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


def attach_images(model: Any, stored: Mapping[str, Stored], path: str | Path) -> dict[str, tuple[int, ...]]:
    """Build a UNet's IP-Adapter layers where the file has some; gives their names and shapes.

    Raises:
        FileFormatError: an IP-Adapter of another kind, or one that does not fit.
    """
    image = {name: entry for name, entry in stored.items() if is_image_layer(name)}
    known = {name: entry for name, entry in image.items() if ".to_" in name or ".image_projection_layers." in name}
    for name, entry in known.items():
        check_dimensions(path, name, entry.shape, 1 if name.endswith((".norm.weight", ".bias")) else 2)
    if sum(name.endswith(".image_embeds.weight") for name in image) > _MOST_ADAPTERS:
        raise FileFormatError(f"{path}: holds more than {_MOST_ADAPTERS} IP-Adapters, expected at most so many.")
    try:
        if not hasattr(model, "attach_ip_adapter") or not model.attach_ip_adapter(stored):
            return {}
    except KeyError as error:
        raise FileFormatError(f"{path}: tensor {error.args[0]} of its IP-Adapter is missing.") from None
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from error
    return {name: entry.shape for name, entry in image.items()}


def read_all(
    stored: Mapping[str, Stored | list[Stored]], dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Read the tensors of a model, each checked for NaN; several of one name must be equal position tables."""
    tensors = {}
    for entries in stored.values():
        for entry in entries if isinstance(entries, list) else [entries]:
            check_floats(entry.source, [entry.key])
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
    for name, value in model.named_buffers():
        if name not in tensors and is_table(name):
            tensors[name] = sinusoidal_table(value.shape[1], value.shape[2]).to(device=device, dtype=dtype)
    if any(_loads_by_itself(module) for module in model.modules()):
        model.load_state_dict(tensors, strict=True, assign=True)
    else:
        _put(model, tensors)
    return model.eval()


def _loads_by_itself(module: nn.Module) -> bool:
    """Whether a layer, such as a host's, does something of its own when it is loaded."""
    own = type(module)._load_from_state_dict is not nn.Module._load_from_state_dict
    return own or bool(module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks)


def _put(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """What ``load_state_dict(strict=True, assign=True)`` does, in a fifth of its time."""
    rest = dict(tensors)
    for prefix, module in model.named_modules():
        for values in cast(tuple[dict[str, Any], ...], (module._parameters, module._buffers)):
            for leaf, old in values.items():
                if old is None or leaf in module._non_persistent_buffers_set:
                    continue
                name = f"{prefix}.{leaf}" if prefix else leaf
                new = rest.pop(name, None)
                if new is None or new.shape != old.shape:
                    found = "missing" if new is None else f"of shape {tuple(new.shape)}, expected {tuple(old.shape)}"
                    raise KeyMismatchError(f"tensor {name} is {found}.")
                values[leaf] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    if rest:
        raise KeyMismatchError(f"{len(rest)} tensors have no place in the model: {name_some(list(rest))}.")


def initialise(
    names: Iterable[str], shapes: Mapping[str, Sequence[int]], dtype: torch.dtype | None, device,
    generator: torch.Generator | None = None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Starting values for parameters that no file has.

    Norms start at one, the output of motion modules at zero, so that they change nothing, all other layers at the
    uniform values of ``torch.nn``.

    Args:
        shapes: of all parameters of the model by name.
        generator: of the random values; torch's own without one.
    """
    dtype = dtype or torch.get_default_dtype()
    fine = torch.float32 if dtype in _SMALL else dtype  # nothing random is made in 8 bits
    return {
        name: _start(name, shapes, torch.empty(tuple(shapes[name]), dtype=fine, device=device), generator).to(dtype)
        for name in names
    }


def _start(
    name: str, shapes: Mapping[str, Sequence[int]], value: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    layer, _, leaf = name.rpartition(".")
    weight = shapes[f"{layer}.weight"]
    if len(weight) == 1:
        return value.fill_(1 if leaf == "weight" else 0)
    if ".motion_modules." in name and layer.endswith(".proj_out"):
        return value.zero_()
    bound = math.prod(weight[1:]) ** -0.5
    return value.uniform_(-bound, bound, generator=generator)
