"""GEGLU where a gradient is wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class GatedProduct(torch.autograd.Function):
    """The plain twin with a gradient that is written into one tensor, where autograd would join two halves."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        opened = F.gelu(gate)
        ctx.save_for_backward(x, opened)
        return value * opened

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        x, opened = ctx.saved_tensors
        value, gate = x.chunk(2, dim=-1)
        if torch.is_grad_enabled():  # for a second derivative
            return torch.cat([gradient * F.gelu(gate), torch.ops.aten.gelu_backward(gradient * value, gate)], dim=-1)
        out = torch.empty_like(x)
        of_value, of_gate = out.chunk(2, dim=-1)
        torch.mul(gradient, value, out=of_value)
        torch.ops.aten.gelu_backward.grad_input(of_value, gate, grad_input=of_gate)
        torch.mul(gradient, opened, out=of_value)
        return out
