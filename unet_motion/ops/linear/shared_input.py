"""Linear layers that read the same input, in training: its gradient is added up inside the products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import in_autocast, is_hooked, is_own


def serves(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether `project` gives what calling each layer on ``x`` gives, with a gradient."""
    if not (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling():
        return False  # without the input's gradient nothing is gained
    if in_autocast(x.device):
        return False
    return all(is_own(m, nn.Linear) and m.bias is None and not is_hooked(m) for m in layers)


def project(x: Tensor, layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """``layer(x)`` of each layer, x (..., C)."""
    return _Projections.apply(x, *(layer.weight for layer in layers))


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(F.linear(x, weight) for weight in weights)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        x, *weights = ctx.saved_tensors
        rows = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        of_x = rows[0] @ weights[0]
        for row, weight in zip(rows[1:], weights[1:], strict=True):
            of_x = torch.addmm(of_x, row, weight) if torch.is_grad_enabled() else of_x.addmm_(row, weight)
        tokens = x.reshape(-1, x.shape[-1])
        of_weights = (
            row.t() @ tokens if wanted else None for row, wanted in zip(rows, ctx.needs_input_grad[1:], strict=True)
        )
        return of_x.view(x.shape), *of_weights
