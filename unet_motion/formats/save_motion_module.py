"""Writing motion modules as one file with AnimateDiff's own names, which also says what the names cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.unet import SCOPE_FIELDS
from ..files.description import ADAPTER_KEY, DESCRIPTION_KEY
from ..files.writing import write_safetensors
from ..model.unet_motion_model import UNetMotionModel
from .computed import header_for, of_adapter
from .motion_weights import MotionModule
from .names.animatediff import diffusers_to_animatediff


def save_motion_file(unet: UNetMotionModel, path: str | Path, made: Mapping[str, Any]) -> None:
    """Write a UNet's motion modules, whole or not at all; `load_motion_module` and other programs read the file.

    Attention heads, groups of the norms and the norm scopes do not follow from tensors: they stand in the header, as
    JSON under `unet_motion`.

    Args:
        path: ends in ``.safetensors``.
        made: how the weights came to be, ready for JSON; entry ``training`` of the header's object.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a file name that ends in .safetensors.")
    adapter = unet.motion_adapter()
    # A position table stands under two names: each gets memory of its own.
    named = diffusers_to_animatediff(adapter.state_dict())
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    scopes = {name: unet.config[name] for name in SCOPE_FIELDS}
    config = {"_class_name": adapter.config.class_name, **adapter.config.to_dict(), **scopes}
    description = {ADAPTER_KEY: config, "training": dict(made)}
    # One entry only: safetensors writes several in a random order, and equal modules are equal files.
    write_safetensors(tensors, path, {DESCRIPTION_KEY: json.dumps(description, sort_keys=True)})


def save_merged(module: MotionModule, path: str | Path) -> None:
    """Write motion modules that are no file's with AnimateDiff's names; a header says what those cannot.

    Args:
        path: ends in ``.safetensors``.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a file name that ends in .safetensors.")
    named = {name: tensor.contiguous().clone() for name, tensor in diffusers_to_animatediff(module.state_dict).items()}
    scopes = dict(zip(SCOPE_FIELDS, module.norm_scopes, strict=True))
    config = {"_class_name": module.config.class_name, **module.config.to_dict(), **scopes}
    wanted = of_adapter(module.config, module.norm_scopes)
    header = header_for(path, named, wanted, {ADAPTER_KEY: config}, "a file of motion modules")
    write_safetensors(named, path, header)
