"""Half precision on processors that compute in it."""

from __future__ import annotations

import torch


def has_fast_bfloat16() -> bool:
    """Whether torch has bfloat16 kernels for this CPU; others make each product of many small steps, far slower."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def autocast() -> torch.autocast:
    """bfloat16 for matrix products and convolutions where that is faster, else float32 throughout."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16())
