"""FreeU's filter of the skip, its factor of the backbone, and their concatenation, written once.

The plain twin is :func:`freeu_concat_eager`. The kernels read the skip twice, the backbone once (v2: twice), and write
the result: no filtered copy of the skip, no scaled copy of the backbone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, library

from ..dispatch import kernel
from ..layout import empty_result, not_rows


def _constraint(hidden: Tensor, skip: Tensor, active: Tensor | None) -> str | None:
    if hidden.dtype != skip.dtype:
        return "backbone and skip differ in dtype"
    for x in (hidden, skip):
        if reason := not_rows(x.permute(0, 2, 3, 1)):
            return f"in channels-last memory {reason}"
    return None


FREEU = kernel("freeu", fits=_constraint)


@library.custom_op("unet_motion::freeu_concat", mutates_args=())
def freeu_concat_kernel(
    hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None
) -> Tensor:
    """Concatenated channels-last (N, C + D, H, W) of backbone (N, C, H, W) and skip (N, D, H, W).

    Args:
        b: factor of the backbone's first half; with ``structure`` where its mean map is largest, 1 where it is least.
        s: factor of the skip's low frequencies.
        active: bool tensor of one value; where it is False, both pass unchanged.
    """
    from .triton import launch

    return launch(hidden, skip, b, s, structure, active)


@freeu_concat_kernel.register_fake
def _(hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None) -> Tensor:
    return empty_result(hidden, skip)


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


def freeu_concat_eager(
    hidden: Tensor, skip: Tensor, b: float, s: float, structure: bool, active: Tensor | None
) -> Tensor:
    """The plain twin of the kernel, with its arguments."""
    half = hidden.shape[1] // 2
    factor = _backbone_factor(hidden, b) if structure else b
    out = torch.cat([hidden[:, :half] * factor, hidden[:, half:], scale_low_frequencies(skip, s)], dim=1)
    return out if active is None else torch.where(active, out, torch.cat([hidden, skip], dim=1))
