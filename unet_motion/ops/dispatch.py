"""Which tensors a Triton kernel takes: constraints as data, asked where kernels are wanted (`mode.py`)."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .pairs import PairOf

HALF_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)

_log = logging.getLogger(__name__)


@dataclass
class Kernel:
    """A Triton kernel's constraints.

    Attributes:
        name: of the operation.
        dtypes: that it takes.
        by_processor: whether an attention processor runs it, rather than the mode.
        measured: whether it runs only at sizes where it was found to be faster (tuning.py).
        fits: the operation's own constraint: its tensors, None where one is left out -> why they do not fit, or None.
        width: how many times the channels of a level its widest tensor has.
        pairs: the kernel beside its plain twin in each variant that the network uses, with the variant's name.
        rows: names of those that benchmarks have a row for.
    """

    name: str
    dtypes: tuple[torch.dtype, ...] = HALF_AND_SINGLE
    by_processor: bool = False
    measured: bool = False
    fits: Callable[..., str | None] = lambda *_: None
    width: int = 1
    pairs: list[tuple[str, PairOf]] = field(default_factory=list, repr=False)
    rows: list[str] = field(default_factory=list, repr=False)
    _told: set[str] = field(default_factory=set, repr=False)

    def lacks(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this kernel runs on no tensors of a device and dtype, or None."""
        return unavailable(device) or (None if dtype in self.dtypes else f"no kernel for {dtype}")

    def declines(self, *tensors: Tensor | None) -> str | None:
        """Why this kernel does not run on the tensors, or None; an argument that is left out is None."""
        present = [t for t in tensors if t is not None]
        first = present[0]
        reason = self.lacks(first.device, first.dtype)
        if reason is None and any(t.device != first.device for t in present):
            reason = "its tensors are on several devices"
        if reason is None and torch.is_grad_enabled() and any(t.requires_grad for t in present):
            reason = "gradients are asked for"
        return reason or self.fits(*tensors)

    def takes(self, *tensors: Tensor | None) -> bool:
        """Whether the kernel runs on the tensors; the first decline for each reason is logged."""
        reason = self.declines(*tensors)
        if reason is not None and reason not in self._told:
            self._told.add(reason)
            _log.info("%s runs as plain PyTorch: %s", self.name, reason)
        return reason is None

    def pair(self, words: str, row: bool = True, **options):
        """Register a function, with these options, as one that makes a pair; ``row``: for benchmarks too."""

        def register(function: PairOf) -> PairOf:
            self.pairs.append((words, partial(function, **options)))
            if row:
                self.rows.append(words)
            return function

        return register


KERNELS: dict[str, Kernel] = {}


def kernel(name: str, **constraints) -> Kernel:
    """Make and register the constraints of a kernel."""
    KERNELS[name] = Kernel(name, **constraints)
    return KERNELS[name]


def interpreted() -> bool:
    """Whether Triton interprets kernels, so that they run on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


TRITON_IS_THERE = importlib.util.find_spec("triton") is not None
"""Found out at once: torch.compile, which asks what can run as it traces, cannot trace the search for a package."""


def unavailable(device: torch.device) -> str | None:
    """Why no Triton kernel can run on a device, or None."""
    if not TRITON_IS_THERE:
        return "Triton is not installed"
    if interpreted():
        return None if device.type == "cpu" else "Triton's interpreter computes on the CPU"
    if device.type != "cuda":
        return f"Triton has no backend here for {device.type}"
    # Compiled code cannot trace the question: on an older card its own error, or Triton's, tells.
    if torch.version.hip is None and not torch.compiler.is_compiling():
        try:
            if torch.cuda.get_device_capability(device) < (7, 0):
                return "Triton needs compute capability 7.0"
        except (RuntimeError, AssertionError):  # no driver, no such card, or a build of torch without CUDA
            return "torch finds no card"
    return None
