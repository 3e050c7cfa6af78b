"""What is known of the processor's vectors and matrix units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

WIDE = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether torch computes with vectors of 512 bits."""


def _can(*names: str) -> bool:
    """Whether the processor has one of these; not every torch can be asked, and one that cannot knows of none."""
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and any(found.get(name, False) for name in names)


BFLOAT16_TILES = _can("amx_bf16")
"""Whether it has matrix units for bfloat16, whose products take a fraction of the time of float32."""

BFLOAT16 = BFLOAT16_TILES or (WIDE and _can("avx512_bf16"))
"""Whether it multiplies bfloat16 faster than float32."""
