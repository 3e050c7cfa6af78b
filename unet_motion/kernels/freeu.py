"""FreeU's filter of the skip, its factor of the backbone, and their concatenation, written once.

The plain twin is :func:`unet_motion.freeu.freeu_concat_eager`. The kernels read the skip twice, the backbone once (v2:
twice), and write the result: no filtered copy of the skip, no scaled copy of the backbone.
"""

from __future__ import annotations

from torch import Tensor, library

from .dispatch import kernel
from .strides import not_rows


def _constraint(hidden: Tensor, skip: Tensor, active: Tensor | None) -> str | None:
    if hidden.dtype != skip.dtype:
        return "backbone and skip differ in dtype"
    for x in (hidden, skip):
        if reason := not_rows(x.permute(0, 2, 3, 1)):
            return f"in channels-last memory {reason}"
    return None


FREEU = kernel("freeu", fits=_constraint)


@library.custom_op("unet_motion::freeu_concat", mutates_args=())
def freeu_concat_kernel(
    hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None
) -> Tensor:
    """Concatenated channels-last (N, C + D, H, W) of backbone (N, C, H, W) and skip (N, D, H, W).

    Args:
        b: factor of the backbone's first half; with ``structure`` where its mean map is largest, 1 where it is least.
        s: factor of the skip's low frequencies.
        active: bool tensor of one value; where it is False, both pass unchanged.
    """
    from .triton.freeu import launch

    return launch(hidden, skip, b, s, structure, active)


@freeu_concat_kernel.register_fake
def _(hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None) -> Tensor:
    return empty_result(hidden, skip)


def empty_result(hidden: Tensor, skip: Tensor) -> Tensor:
    """(N, C + D, H, W) in channels-last memory."""
    n, c, h, w = hidden.shape
    return hidden.new_empty(n, h, w, c + skip.shape[1]).permute(0, 3, 1, 2)
