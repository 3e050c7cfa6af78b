"""What is known of the processor's vectors."""

from __future__ import annotations

import torch

WIDE = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether torch computes with vectors of 512 bits."""
