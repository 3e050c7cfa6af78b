"""Writing LoRAs as files that AnimateDiff's, diffusers' and ComfyUI's loaders read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.description import DESCRIPTION_KEY
from ..files.writing import write_safetensors
from ..values import quoted
from .names import original_motion

FORMS = ("original", "diffusers")
_ATTENTION = re.compile(r"\.(to_[qkv]|to_out)(\.0)?$")


def lora_names(path: str, form: str) -> tuple[str, str]:
    """Names of the tensors (down, up) of the layer at a path.

    Args:
        form: `original` (AnimateDiff's motion LoRAs: attention of motion modules only) or `diffusers` (PEFT's names
            below `unet.`, as diffusers' pipelines save and load them).

    Raises:
        ValueError: no such form, or a layer that the original form has no name for.
    """
    if form == "diffusers":
        return f"unet.{path}.lora_A.weight", f"unet.{path}.lora_B.weight"
    if form != "original":
        raise ValueError(f"form is {quoted(form)}, expected one of {', '.join(FORMS)}.")
    if ".motion_modules." not in path or not _ATTENTION.search(path):
        raise ValueError(f"{path}: has no name in AnimateDiff's form, expected an attention layer of a motion module.")
    layer = _ATTENTION.sub(r".processor.\1_lora", original_motion(path))
    return f"{layer}.down.weight", f"{layer}.up.weight"


def has_original_form(paths) -> bool:
    """Whether AnimateDiff's form has names for all of these layers."""
    return all(".motion_modules." in path and _ATTENTION.search(path) for path in paths)


def save_lora(
    layers: Mapping[str, tuple[Tensor, Tensor]],
    path: str | Path,
    form: str,
    made: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a LoRA as one file, whole or not at all; equal LoRAs are equal files.

    Args:
        layers: path in the UNet -> (down (R, in), up (out, R)); scales other than 1 are inside of `up`, since
            AnimateDiff's form has no alpha.
        path: ends in ``.safetensors``.
        form: see :func:`lora_names`.
        made: how it came to be, ready for JSON; entry ``training`` of the object ``unet_motion`` in the header.
        dtype: of the file.

    Raises:
        ValueError: another ending, no layers, values that the dtype cannot hold, or see :func:`lora_names`.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a file name that ends in .safetensors.")
    if not layers:
        raise ValueError(f"{path}: has no layers to hold, expected at least one.")
    tensors = {}
    for layer, pair in sorted(layers.items()):
        for name, value in zip(lora_names(layer, form), pair, strict=True):
            tensors[name] = value.detach().to("cpu", dtype).contiguous().clone()
            if not torch.isfinite(tensors[name]).all():
                raise ValueError(f"{path}: {name} has values that are not finite in {dtype}, expected none.")
    header = {DESCRIPTION_KEY: json.dumps({"training": dict(made)}, sort_keys=True)}
    write_safetensors(tensors, path, header)
