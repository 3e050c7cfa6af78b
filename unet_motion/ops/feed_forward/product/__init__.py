"""A linear layer and the GEGLU of its result in one launch, which writes half of what the layer alone would."""

from __future__ import annotations

from torch import Tensor

from ...tuning import is_chosen

NAME = "geglu_product"


def sizes_of(x: Tensor, weight: Tensor) -> dict[str, int]:
    """The sizes that an entry of tiles has; it stands for all numbers of rows down to half of its own."""
    rows = x.numel() // max(1, x.shape[-1])
    return {"rows": 1 << max(0, rows - 1).bit_length(), "depth": x.shape[-1], "width": len(weight) // 2}


def is_measured(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel was found to be faster than the layer and GEGLU apart on this device, at about this size."""
    return is_chosen(NAME, x.device, x.dtype, **sizes_of(x, weight))
