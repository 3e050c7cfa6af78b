"""GEGLU's Triton kernel as an operator of torch, and what it takes."""

from __future__ import annotations

from torch import Tensor, library

from ..dispatch import kernel
from ..layout import not_rows


def _constraint(x: Tensor) -> str | None:
    return not_rows(x) or ("its channels are no two halves" if x.shape[-1] % 2 else None)


GEGLU = kernel("geglu", fits=_constraint, width=8)


@library.custom_op("unet_motion::geglu", mutates_args=())
def geglu_kernel(x: Tensor) -> Tensor:
    from .triton import launch

    return launch(x)


@geglu_kernel.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
