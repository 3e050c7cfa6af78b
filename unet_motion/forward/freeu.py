"""FreeU: re-weighting of backbone and skip features (Si et al., 2023, https://arxiv.org/abs/2309.11497)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..ops.freeu import FREEU, freeu_concat_eager, freeu_concat_kernel
from ..values import is_finite, quoted


@dataclass(frozen=True)
class FreeU:
    """Factors of FreeU for the two lowest up blocks.

    Args:
        s1, s2: scale of the skip's low frequencies in up block 0 and 1; 1 changes nothing.
        b1, b2: scale of the first half of the backbone's channels in up block 0 and 1; 1 changes nothing.
        version: ``v1`` multiplies by ``b`` everywhere (the paper's first code, diffusers); ``v2`` raises the factor
            from 1 to ``b`` with the backbone's normalised mean map (the paper's structure-aware factor).
        active: bool tensor of one value, on the model's device: where it is False, nothing changes. A tensor, so that
            neither a device has to be waited for nor a compiled graph to be made anew when it turns. None: always.
    """

    s1: float
    s2: float
    b1: float
    b2: float
    version: str = "v1"
    active: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.version not in ("v1", "v2"):
            raise ValueError(f"FreeU `version` is {quoted(self.version)}, expected 'v1' or 'v2'.")
        for name in ("s1", "s2", "b1", "b2"):
            if not is_finite(getattr(self, name)):
                raise ValueError(f"FreeU `{name}` is {quoted(getattr(self, name))}, expected a finite number.")

    def factors(self, resolution: int) -> tuple[float, float] | None:
        """(backbone, skip) factor of an up block, or None where FreeU does not act."""
        return {0: (self.b1, self.s1), 1: (self.b2, self.s2)}.get(resolution)


def freeu_concat(hidden: Tensor, skip: Tensor, freeu: FreeU | None, resolution: int) -> Tensor:
    """Concatenate backbone (N, C, H, W) and skip (N, D, H, W) on channels, re-weighted where FreeU acts."""
    factors = freeu.factors(resolution) if freeu is not None else None
    if freeu is None or factors is None:
        return torch.cat([hidden, skip], dim=1)
    structure = freeu.version == "v2"
    if FREEU.runs(hidden, skip, freeu.active):
        return freeu_concat_kernel(hidden, skip, *factors, structure, freeu.active)
    return freeu_concat_eager(hidden, skip, *factors, structure, freeu.active)
