"""Which code operations are asked to run: plain PyTorch, or Triton's kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..values import quoted

MODES = ("eager", "triton")
VARIABLE = "UNET_MOTION_KERNELS"

_mode: ContextVar[str | None] = ContextVar("unet_motion_kernels", default=None)


def check_mode(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f"kernels {quoted(mode)} are unknown; expected one of {', '.join(MODES)}.")
    return mode


def current_mode() -> str:
    """The mode of this thread or task: that of `use`, else of UNET_MOTION_KERNELS, else "eager"."""
    return _mode.get() or check_mode(os.environ.get(VARIABLE) or "eager")


@contextmanager
def use(mode: str) -> Iterator[None]:
    """Run the block with "eager" or "triton" kernels; other threads are not touched."""
    token = _mode.set(check_mode(mode))
    try:
        yield
    finally:
        _mode.reset(token)


def wanted() -> bool:
    """Whether Triton kernels are asked for; not in compiled code, whose compiler fuses by itself."""
    return not torch.compiler.is_compiling() and current_mode() == "triton"
