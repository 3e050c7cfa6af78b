"""Which code operations are asked to run: plain PyTorch, Triton's kernels, or those that were proven here.

"eager" is plain PyTorch and what a library's user gets unasked: a program computes the same bits tomorrow, on a card
that finds another kernel faster too. "triton" runs every kernel that takes its tensors. "proven" runs a kernel where it
has shown on this device that it is as exact as plain PyTorch and no slower (`proof.py`); so ComfyUI's nodes begin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..values import quoted

PROVEN = "proven"
MODES = ("eager", "triton", PROVEN)
VARIABLE = "UNET_MOTION_KERNELS"

_mode: ContextVar[str | None] = ContextVar("unet_motion_kernels", default=None)


def check_mode(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f"kernels {quoted(mode)} are unknown; expected one of {', '.join(MODES)}.")
    return mode


def current_mode(default: str = "eager") -> str:
    """The mode of this thread or task: that of `use`, else of UNET_MOTION_KERNELS, else ``default``."""
    return _mode.get() or check_mode(os.environ.get(VARIABLE) or default)


@contextmanager
def use(mode: str) -> Iterator[None]:
    """Run the block with the kernels of a mode, one of MODES; other threads are not touched."""
    token = _mode.set(check_mode(mode))
    try:
        yield
    finally:
        _mode.reset(token)
