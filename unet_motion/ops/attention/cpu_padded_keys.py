"""Attention over a number of keys that fills no vectors, such as the 77 tokens of a text, on a CPU.

torch's fused kernel computes what is left behind the last whole vector of keys one by one: 80 keys take two thirds of
the time of 77, in bfloat16 half of it. So keys are added, which a mask takes out again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu_vectors import WIDE

VECTOR = 16 if WIDE else 8
"""Keys that the kernel computes at once."""

FEWEST_QUERIES, MOST_KEYS = 256, 512
"""Where the copies repay themselves."""


def serves(query: Tensor, key: Tensor) -> bool:
    """Whether more keys (N, heads, S, dim) make attention of these queries (N, heads, L, dim) faster."""
    if query.device.type != "cpu" or query.dtype not in (torch.float32, torch.bfloat16):
        return False
    if torch.compiler.is_compiling():
        return False
    keys = key.shape[2]
    return query.shape[2] >= FEWEST_QUERIES and keys <= MOST_KEYS and keys % VECTOR > VECTOR // 2


def pad(key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values (N, heads, S, dim) filled up with zeros, and the additive mask (..., S) that leaves those out."""
    keys = key.shape[2]
    more = -keys % VECTOR
    if mask is None:
        mask = key.new_zeros(1, 1, 1, keys)
    return F.pad(key, (0, 0, 0, more)), F.pad(value, (0, 0, 0, more)), F.pad(mask, (0, more), value=-math.inf)
