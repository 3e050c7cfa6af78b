"""FreeU's Triton kernels as an operator of torch, and what they take."""

from __future__ import annotations

from torch import Tensor, library

from ..dispatch import kernel
from ..layout import empty_result, not_rows


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
    from .triton import launch

    return launch(hidden, skip, b, s, structure, active)


@freeu_concat_kernel.register_fake
def _(hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None) -> Tensor:
    return empty_result(hidden, skip)
