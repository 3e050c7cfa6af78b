"""Group norm's Triton kernel as an operator of torch, and what it takes."""

from __future__ import annotations

from torch import Tensor, library

from ..dispatch import kernel


def _constraint(tokens: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> str | None:
    if added is not None and (tokens.shape[0] % added.shape[0] or added.shape[1] != tokens.shape[2]):
        return "what is added is not one row of each so many tokens"
    strided = any(t is not None and t.stride(-1) != 1 and t.shape[-1] != 1 for t in (tokens, added))
    return "its channels are strided" if strided else None


GROUP_NORM = kernel("group_norm", fits=_constraint)


@library.custom_op("unet_motion::group_norm", mutates_args=())
def group_norm_kernel(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    from .triton import launch

    return launch(tokens, weight, bias, groups, eps, silu, added)


@group_norm_kernel.register_fake
def _(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float, silu: bool,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return tokens.new_empty(tokens.shape)
