"""Optimizers by name, and a step whose gradients are shortened."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unet_motion.training.optimizers import make_optimizer, step_divided

FUSED, UNFUSED = ("AdamW", "Adam", "SGD"), ("Adagrad", "RMSprop", "NAdam")


@pytest.mark.parametrize("name", FUSED + UNFUSED)
def test_a_divided_step_is_that_of_divided_gradients(name):
    torch.manual_seed(0)
    mine = [nn.Parameter(torch.randn(*shape)) for shape in ((3, 5), (7,), (1, 2, 3))]
    other = [nn.Parameter(p.detach().double()) for p in mine]
    optimizer = make_optimizer(name, mine, 0.1, 0.01)
    assert getattr(optimizer, "_step_supports_amp_scaling", False) == (name in FUSED)
    reference = getattr(torch.optim, name)(other, lr=0.1, weight_decay=0.01)
    for step in range(4):
        for a, b in zip(mine, other, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.double()
        divisor = None if step == 1 else torch.tensor(1.0 + step)
        if divisor is not None:
            for b in other:
                b.grad /= divisor
        step_divided(optimizer, [p.grad for p in mine], divisor)
        reference.step()
        assert not hasattr(optimizer, "grad_scale")
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
