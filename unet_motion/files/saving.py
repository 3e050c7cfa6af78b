"""Writing a folder as diffusers lays it out, whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..values import quoted
from .atomic import atomic_files
from .folders import CONFIG_NAME, PICKLE, SAFETENSORS, index_name, is_weights_of, weights_name
from .writing import fill_pickle, fill_safetensors

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(size: int | str) -> int:
    """Bytes in ``10GB``, ``500MB``, ``2GiB`` or a number.

    Raises:
        ValueError: not a size.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", size) if isinstance(size, str) else None
    if match is None or match.group(2).upper() not in _UNITS or float(match.group(1)) == 0:
        raise ValueError(f"`max_shard_size` is {quoted(size)}, expected a number of bytes or a text such as '10GB'.")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


def split_shards(state_dict: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    """Names in order, cut into shards of at most ``max_bytes``; a larger tensor gets a shard of its own."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, tensor in state_dict.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    *,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
    safe_serialization: bool = True,
) -> list[Path]:
    """Write ``config.json`` and the weights; returns the files of weights.

    All files are written under other names and put in place together once they are complete. Weights of the same
    format and variant from an earlier save are removed then.

    Raises:
        OSError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder to save into.")
    suffix = SAFETENSORS if safe_serialization else PICKLE
    shards = split_shards(state_dict, parse_size(max_shard_size))
    numbers = [(i + 1, len(shards)) if len(shards) > 1 else None for i in range(len(shards))]
    names = [weights_name(suffix, variant, number) for number in numbers]
    # Put in place in this order, so that a folder with a config.json has its weights.
    files = [*names, index_name(suffix, variant), CONFIG_NAME] if len(shards) > 1 else [*names, CONFIG_NAME]
    kept = set(files)
    with atomic_files([folder / name for name in files]) as parts:
        for part, name, keys in zip(parts, names, shards, strict=False):
            _write_weights(part, folder / name, {key: state_dict[key] for key in keys})
        if len(shards) > 1:
            total = sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values())
            located = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
            _write_json(parts[-2], {"metadata": {"total_size": total}, "weight_map": located})
        _write_json(parts[-1], config)
    for file in folder.iterdir():
        if file.name not in kept and is_weights_of(file.name, suffix, variant):
            file.unlink()
    return [folder / name for name in names]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(part: Path, path: Path, tensors: dict[str, Tensor]) -> None:
    if path.suffix == f".{SAFETENSORS}":
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        fill_safetensors(whole, part, path, {"format": "pt"})
    else:
        # A clone, since a pickle stores the whole storage that a view looks at.
        fill_pickle({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, part, path)
