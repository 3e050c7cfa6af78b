"""FreeU: re-weighting of backbone and skip features (Si et al., 2023, https://arxiv.org/abs/2309.11497).

The skip is filtered, the backbone scaled, and both are concatenated. The plain twin is :func:`freeu_concat_eager`; the
kernels read the skip twice, the backbone once (v2: twice), and write the result: no filtered copy of the skip, no
scaled copy of the backbone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...values import is_finite, quoted
from ..pairs import Make, Pair, size_of
from ..proof import wanted
from .triton_op import FREEU, freeu_concat_kernel


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


def freeu_concat(hidden: Tensor, skip: Tensor, freeu: FreeU | None, resolution: int) -> Tensor:
    """Concatenate backbone (N, C, H, W) and skip (N, D, H, W) on channels, re-weighted in up blocks 0 and 1."""
    if freeu is None or resolution > 1:
        return torch.cat([hidden, skip], dim=1)
    b, s = (freeu.b1, freeu.s1) if resolution == 0 else (freeu.b2, freeu.s2)
    structure = freeu.version == "v2"
    if wanted(FREEU, hidden) and FREEU.takes(hidden, skip, freeu.active):
        return freeu_concat_kernel(hidden, skip, b, s, structure, freeu.active)
    return freeu_concat_eager(hidden, skip, b, s, structure, freeu.active)


def freeu_concat_eager(
    hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None
) -> Tensor:
    """The plain twin of the kernel, with its arguments."""
    half = hidden.shape[1] // 2
    factor = _backbone_factor(hidden, b) if structure else b
    out = torch.cat([hidden[:, :half] * factor, hidden[:, half:], scale_low_frequencies(skip, s)], dim=1)
    return out if active is None else torch.where(active, out, torch.cat([hidden, skip], dim=1))


def low_frequency_basis(height: int, width: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal-scaled basis U (height*width, K) with K <= 7 of the frequencies {-1, 0} x {-1, 0}.

    The real part of the four Fourier terms of a picture x is U @ (U.T @ x). An axis of length 1 has only the
    frequency 0.
    """
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None].expand(height, width).reshape(-1)
    x = torch.arange(width, dtype=torch.float64, device=device)[None, :].expand(height, width).reshape(-1)
    columns = [torch.ones_like(x)]
    for fy in (0, -1)[: min(height, 2)]:
        for fx in (0, -1)[: min(width, 2)]:
            if fy or fx:
                phase = 2 * math.pi * (fy * y / height + fx * x / width)
                columns += [torch.cos(phase), torch.sin(phase)]
    return (torch.stack(columns, dim=1) / math.sqrt(height * width)).to(dtype)


def scale_low_frequencies(x: Tensor, scale: float) -> Tensor:
    """Multiply the centre 2x2 window of the shifted spectrum of x (N, C, H, W) by ``scale``; no Fourier transform.

    Equal to ``ifft(mask * fft(x))`` of the paper's code: y = x + (scale - 1) U (U^T x).
    """
    if scale == 1:
        return x
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    basis = low_frequency_basis(h, w, dtype=x.dtype, device=x.device)
    coefficients = torch.matmul(basis.t(), tokens)
    out = torch.baddbmm(tokens, basis.expand(n, -1, -1), coefficients, alpha=scale - 1)
    return out.reshape(n, h, w, c).permute(0, 3, 1, 2)


def _backbone_factor(hidden: Tensor, b: float) -> Tensor:
    mean = hidden.mean(dim=1, keepdim=True)
    low, high = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
    # A constant map has no structure to follow: its factor is 1.
    normalised = (mean - low) / (high - low).clamp_min(torch.finfo(mean.dtype).tiny)
    return 1 + (b - 1) * normalised


@FREEU.pair("FreeU v1 that is off", row=False, version="v1", on=False)
@FREEU.pair("FreeU v2 that is on", row=False, version="v2", on=True)
@FREEU.pair("FreeU v2 and concatenation", version="v2")
@FREEU.pair("FreeU v1 and concatenation", version="v1")
def _pair(make: Make, clips: int, frames: int, side: int, channels: int, version: str, on: bool | None = None) -> Pair:
    """Of the level two below."""
    images = (make(clips * frames, side // 4, side // 4, 4 * channels).permute(0, 3, 1, 2) for _ in range(2))
    hidden, skip = images
    active = None if on is None else make(1).isfinite() == on
    given = (hidden, skip, 1.5, 0.9, version == "v2", active)
    reads = size_of(hidden, skip, skip) + (size_of(hidden) if version == "v2" else 0)
    return Pair(
        lambda: freeu_concat_kernel(*given), lambda: freeu_concat_eager(*given), (hidden, skip, active),
        reads + size_of(hidden, skip),
    )  # fmt: skip
