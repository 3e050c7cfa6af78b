"""What a file of this project says about itself: a JSON object in the header, or among the tensors.

Other programs write the header of the files that they save from a model of ours, but they keep its tensors. So what
a header would say stands there as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import FileFormatError
from .limits import MAX_JSON, parse_object
from .reading import TensorSource, open_tensors
from .sniffing import sniff

DESCRIPTION_KEY = "unet_motion"
"""Name of the entry in a safetensors header, and of the tensor of bytes."""
ADAPTER_KEY = "motion_adapter"
"""Entry of a motion module's description: its configuration and the norm scopes it was trained with."""


def description_tensor(description: Mapping[str, Any]) -> Tensor:
    """A description as the bytes (uint8, one dimension) of its JSON."""
    return torch.tensor(list(json.dumps(description, sort_keys=True).encode()), dtype=torch.uint8)


def read_description(source: TensorSource) -> dict[str, Any]:
    """A file's description; empty where it has none.

    Raises:
        FileFormatError: the file has one, but it is damaged.
    """
    if DESCRIPTION_KEY in source.infos:
        found = _described_by_tensor(source)
        if not isinstance(found.get("unet"), dict):
            raise FileFormatError(
                f"{source.path}: its tensor {DESCRIPTION_KEY} is damaged, expected the bytes of a JSON object with the "
                "UNet's configuration: save the model again."
            )
        return found
    text = source.metadata.get(DESCRIPTION_KEY)
    return {} if text is None else parse_object(text, f"{source.path}: its entry {DESCRIPTION_KEY} of the header")


def _described_by_tensor(source: TensorSource) -> dict[str, Any]:
    info = source.infos[DESCRIPTION_KEY]
    if info.dtype != torch.uint8 or len(info.shape) != 1 or info.numel > MAX_JSON:
        return {}
    try:
        return parse_object(bytes(source.read(DESCRIPTION_KEY).tolist()), str(source.path))
    except FileFormatError:
        return {}


def described(source: TensorSource, name: str) -> dict[str, Any] | None:
    """One of a description's objects; None where it has none of that name.

    Raises:
        FileFormatError: it is something else, or see :func:`read_description`.
    """
    found = read_description(source).get(name)
    if found is not None and not isinstance(found, dict):
        raise FileFormatError(
            f"{source.path}: its description has a {type(found).__name__} as {name}, expected a configuration."
        )
    return found


def describe_file(path: str | Path) -> dict[str, Any]:
    """:func:`read_description` of a path; only safetensors files have one."""
    if not Path(path).is_file() or sniff(Path(path)) != "safetensors":
        return {}
    return read_description(open_tensors(path))
