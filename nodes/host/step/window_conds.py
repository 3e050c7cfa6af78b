"""The conditioning of a clip for some of its frames: text, masks and pictures follow the frame that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.conds
import torch
from torch import Tensor

NOT_FRAMES = (comfy.conds.CONDConstant, comfy.conds.CONDList)


def conds_of_rows(conds: Sequence[dict] | None, rows: Sequence[int], total: int) -> list[dict] | None:
    """Conds as ComfyUI's samplers hold them, for some rows of the batch.

    A row gets what it would get in a run of the whole batch, where ComfyUI repeats what there is less of.

    Args:
        rows: of the batch of latents.
        total: rows of the whole batch.
    """
    return None if conds is None else [_of_rows(cond, torch.as_tensor(rows), total) for cond in conds]


def _of_rows(cond: dict, rows: Tensor, total: int) -> dict:
    found = {}
    for name, value in cond.items():
        if name == "model_conds":
            value = {key: _model_cond(item, rows, total) for key, item in value.items()}
        elif isinstance(value, Tensor) and value.ndim and len(value) > 1 and (name == "mask" or len(value) == total):
            value = _rows_of(value, rows)
        found[name] = value
    return found


def _model_cond(value: Any, rows: Tensor, total: int) -> Any:
    """One of ComfyUI's CONDs, which it repeats to the batch by their first dimension."""
    tensor = getattr(value, "cond", value)
    if not isinstance(tensor, Tensor) or not tensor.ndim or len(tensor) < 2 or isinstance(value, NOT_FRAMES):
        return value
    if not isinstance(value, comfy.conds.CONDRegular) and len(tensor) != total:
        return value  # of another pack: only what is surely one for each frame
    tensor = _rows_of(tensor, rows)
    return tensor if value is getattr(value, "cond", value) else value._copy_with(tensor)


def _rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor[(rows % len(tensor)).to(tensor.device)]
