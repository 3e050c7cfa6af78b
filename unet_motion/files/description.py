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
        FileFormatError: the file has the tensor of one, but that is no description.
    """
    if DESCRIPTION_KEY in source.infos:
        tensor = source.read(DESCRIPTION_KEY)
        try:
            found = json.loads(bytes(tensor.tolist()))
        except (ValueError, TypeError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("unet"), dict):
            raise FileFormatError(
                f"{source.path}: its tensor {DESCRIPTION_KEY} is damaged, expected the bytes of a JSON object with the "
                "UNet's configuration: save the model again."
            )
        return found
    try:
        found = json.loads(source.metadata.get(DESCRIPTION_KEY, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def describe_file(path: str | Path) -> dict[str, Any]:
    """:func:`read_description` of a path; only safetensors files have one."""
    if not Path(path).is_file() or sniff(Path(path)) != "safetensors":
        return {}
    return read_description(open_tensors(path))
