"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..values import quoted

_SPECIAL = ("foreach", "differentiable", "capturable", "fused")
"""Arguments that choose how a step is computed; some exclude each other."""

_OTHER_KIND = ("LBFGS", "SparseAdam", "Optimizer")
"""Not for this loop: one wants a closure, one sparse gradients, one is none."""


def optimizer_names() -> list[str]:
    """Every class of `torch.optim` that takes a step from dense gradients."""
    found = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name not in _OTHER_KIND
    }
    return sorted(found)


def make_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    options: Iterable[tuple[str, float | bool]] = (),
) -> torch.optim.Optimizer:
    """An optimizer of `torch.optim`, in its fused form where it has one: one pass over the weights for a dozen.

    Args:
        name: such as `AdamW`.
        weight_decay: left out where the optimizer has none.
        options: more arguments by name, such as `momentum`.

    Raises:
        ValueError: no such optimizer, an argument that it does not take, or a value that it refuses.
    """
    if name not in optimizer_names():
        raise ValueError(f"`optimizer` is {quoted(name)}, expected one of {', '.join(optimizer_names())}.")
    kind, given, parameters = getattr(torch.optim, name), dict(options), list(parameters)
    known = inspect.signature(kind).parameters
    if unknown := [option for option in given if option not in known or option in ("params", "lr", "weight_decay")]:
        raise ValueError(f"`optimizer_options` has {quoted(unknown[0])}, which {name} does not take there.")
    if "weight_decay" in known:
        given["weight_decay"] = weight_decay
    if "fused" in known and not any(option in given for option in _SPECIAL):
        given["fused"] = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    try:
        return kind(parameters, lr=learning_rate, **given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"`optimizer` {name} cannot be made for these weights: {error}") from error


def step_divided(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], divisor: Tensor | None) -> None:
    """A step with gradients that are divided by a number, where there is one.

    A fused optimizer divides in the pass that it makes anyway, as it does for `torch.amp.GradScaler`.
    """
    if divisor is None:
        optimizer.step()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        cast(Any, optimizer).grad_scale = divisor
        try:
            optimizer.step()
        finally:
            del cast(Any, optimizer).grad_scale
    else:
        for gradient in gradients:
            gradient.div_(divisor)
        optimizer.step()
