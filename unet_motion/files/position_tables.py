"""Position tables as files hold them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..ops.sinusoids import sinusoidal_table
from .errors import FileFormatError


def check_same_tables(path: str | Path, keys: list[str], tables: list[Tensor]) -> None:
    """Raise FileFormatError unless tables that become one are equal."""
    for key, table in zip(keys[1:], tables[1:], strict=True):
        # In float32: 8 bits are not compared with anything else.
        if table.shape != tables[0].shape or not torch.equal(table.float(), tables[0].float()):
            raise FileFormatError(
                f"{path}: {keys[0]} and {key} differ, expected one position table for both attentions of a block."
            )


def restore_table(stored: Tensor, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
    """A stored position table in ``dtype``.

    Where that is a wider dtype and the table is the sinusoidal one but for rounding, it is computed anew, so that a
    table stored in half precision is whole again in float32. One that was learned or stretched stays as it is.
    """
    dtype = dtype or stored.dtype
    if torch.finfo(dtype).eps < torch.finfo(stored.dtype).eps and stored.shape[2] % 2 == 0:
        exact = sinusoidal_table(stored.shape[1], stored.shape[2])
        rounding = 2e-5 + torch.finfo(stored.dtype).eps / 2
        if (stored.float().cpu() - exact).abs().max() <= rounding:
            stored = exact
    return stored.to(device=device, dtype=dtype)
