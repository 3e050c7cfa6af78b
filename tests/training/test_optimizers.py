"""Optimizers by name, and a step whose gradients are shortened: each against the same optimizer in float64."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from unet_motion.training.optimizers import make_optimizer, optimizer_names, step_divided

RATE, DECAY = 0.1, 0.01


def known(name: str) -> set[str]:
    return set(inspect.signature(getattr(torch.optim, name)).parameters)


def weights(name: str) -> list[nn.Parameter]:
    """A few of odd sizes; matrices only, where an optimizer takes nothing else."""
    mixed = [nn.Parameter(torch.randn(*shape)) for shape in ((3, 5), (7,), (1, 2, 3))]
    try:
        getattr(torch.optim, name)(mixed, lr=RATE)
    except ValueError:
        return [nn.Parameter(torch.randn(*shape)) for shape in ((3, 5), (7, 2))]
    return mixed


def reference(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Plain code: no fused and no joined steps."""
    plain = {option: False for option in ("fused", "foreach") if option in known(name)}
    decay = {"weight_decay": DECAY} if "weight_decay" in known(name) else {}
    return getattr(torch.optim, name)(parameters, lr=RATE, **decay, **plain)


@pytest.mark.parametrize("name", optimizer_names())
def test_a_divided_step_is_that_of_divided_gradients(name):
    mine = weights(name)
    exact = [nn.Parameter(p.detach().double()) for p in mine]
    optimizer, expected = make_optimizer(name, mine, RATE, DECAY), reference(name, exact)
    attributes = set(vars(optimizer))
    for step in range(4):
        for a, b in zip(mine, exact, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.double()
        divisor = None if step == 1 else torch.tensor(1.0 + step)
        if divisor is not None:
            for b in exact:
                b.grad /= divisor
        step_divided(optimizer, [p.grad for p in mine], divisor)
        expected.step()
        assert set(vars(optimizer)) == attributes
        for a, b in zip(mine, exact, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optimizer_names())
def test_an_optimizer_is_fused_where_torch_has_it(name):
    assert make_optimizer(name, weights(name), RATE, DECAY).defaults.get("fused", False) is ("fused" in known(name))


def test_weights_that_an_optimizer_refuses_are_named_as_its_reason():
    refusing = [name for name in optimizer_names() if len(weights(name)) == 2]
    for name in refusing:
        with pytest.raises(ValueError, match=f"`optimizer` {name} cannot be made for these weights: "):
            make_optimizer(name, [nn.Parameter(torch.randn(3))], RATE, DECAY)
