"""Which code operations are asked to run: plain PyTorch, Triton's kernels, or those that were proven here.

"eager" is plain PyTorch and what a library's user gets unasked: a program computes the same bits tomorrow, on a card
that finds another kernel faster too. "triton" runs every kernel that takes its tensors, but for attention over frames,
which is an attention processor's, and for those that run at measured sizes alone (`tuning.py`). "proven" runs a kernel
where it has shown on this device that it is as exact as plain PyTorch and no slower (`proof.py`); so ComfyUI's nodes
begin.
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


def check_mode(mode: str, where: str = "kernels") -> str:
    if mode not in MODES:
        raise ValueError(f"{where} {quoted(mode)} are unknown; expected one of {', '.join(MODES)}.")
    return mode


def current_mode(default: str = "eager") -> str:
    """The mode of this thread or task: that of `use`, else of UNET_MOTION_KERNELS, else ``default``."""
    return _mode.get() or _of_environment() or check_mode(default)


def _of_environment() -> str | None:
    """The mode that the environment asks for, or None where it says nothing."""
    asked = os.environ.get(VARIABLE, "").strip()
    return check_mode(asked, f"the kernels of the environment variable {VARIABLE},") if asked else None


@contextmanager
def use(mode: str) -> Iterator[None]:
    """Run the block with the kernels of a mode, one of MODES; other threads are not touched."""
    token = _mode.set(check_mode(mode))
    try:
        yield
    finally:
        _mode.reset(token)
