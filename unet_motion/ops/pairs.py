"""A Triton kernel and its plain twin on the same input: what proofs, checks on a card and benchmarks compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Results = Tensor | tuple[Tensor, ...]
"""Of a kernel: one tensor or several."""

Make = Callable[..., Tensor]
"""Sizes -> a tensor of random values."""


@dataclass(frozen=True)
class Pair:
    """A kernel and its plain twin on the same input.

    Attributes:
        tensors: what the kernel's constraints look at, in their order.
        moved: bytes that have to be read and written at least.
        equal: whether the results have to be the same, rather than near.
        apart: the launches, on the kernels, whose place it takes only where it is faster; None where it always runs.
        work: floating-point operations, where they take the time.
    """

    kernel: Callable[[], Results]
    plain: Callable[[], Results]
    tensors: tuple[Tensor | None, ...]
    moved: int
    equal: bool = False
    apart: Callable[[], Results] | None = None
    work: float = 0.0


PairOf = Callable[..., Pair]
"""(make, clips, frames, side, channels) -> a pair on clips of frames of side x side latents."""


def size_of(*tensors: Tensor | None) -> int:
    """Bytes of tensors, those left out not counted."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
