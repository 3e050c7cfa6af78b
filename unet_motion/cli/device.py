"""The device that a command computes on."""

from __future__ import annotations

import torch

from ..sampling.parts import default_device
from ..values import quoted


def check_device(name: str) -> None:
    """Raise ValueError where torch cannot use a device."""
    if name.split(":")[0] == "meta":
        raise ValueError(f"device {quoted(name)} holds no values, expected cpu or another one")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        found = f"device {quoted(name)} cannot be used here ({reason})"
        raise ValueError(f"{found}, expected cpu or another one") from error


def choose_device(name: str | None) -> torch.device:
    """The named device, or without a name a CUDA device where there is one, else the CPU.

    Raises:
        ValueError: torch cannot use it.
    """
    if name is None:
        return default_device()
    check_device(name)
    return torch.device(name)
