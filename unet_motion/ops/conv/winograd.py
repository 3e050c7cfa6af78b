"""3x3 convolutions on a CPU with 16 products in place of 36: Winograd's F(2x2, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015, https://arxiv.org/abs/1509.09308). Each 2x2
of output pixels comes from a 4x4 of input pixels. Input and kernels are transformed to 16 numbers each, multiplied and
added up over the channels in 16 matrix products, and transformed back. Sums are a ninth as long as those of a direct
convolution, so that results round less.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

LEAST_CHANNELS = 256
"""Channels in and out from which the products saved outweigh the transforms."""

LEAST_PRODUCTS = 320 * 320
"""Products of channels in and out from which they do, too."""

KERNELS_AT_ONCE = 28 << 20
"""Bytes of transformed kernels that are held at once."""

PIXELS_AT_ONCE = 12 << 20
"""Bytes of transformed input, and of output before it is transformed back, that are held at once."""

_KERNEL = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)


def serves(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `convolve` computes this layer of x (N, C, H, W), and faster than a direct convolution."""
    if (conv.kernel_size, conv.stride, conv.padding) != ((3, 3), (1, 1), (1, 1)):
        return False
    if x.shape[2] % 2 or x.shape[3] % 2 or min(conv.in_channels, conv.out_channels) < LEAST_CHANNELS:
        return False
    return conv.in_channels * conv.out_channels >= LEAST_PRODUCTS


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, C, H, W) convolved with weight (O, C, 3, 3), stride and padding 1; H and W even. No gradients.

    Returns (N, O, H, W) in channels-last memory.
    """
    n, channels, height, width = x.shape
    out_channels, size = weight.shape[0], x.element_size()
    tiles = height // 2 * (width // 2)
    depth = _share(channels, KERNELS_AT_ONCE // (size * 16 * out_channels))
    frames = _share(n, PIXELS_AT_ONCE // (size * 16 * tiles * max(depth, out_channels)))
    pixels, out = x.permute(0, 2, 3, 1), x.new_empty(n, height, width, out_channels)
    memory = [x.new_empty(16 * frames * tiles * count) for count in (depth, out_channels)]
    kernels = x.new_empty(16 * out_channels * depth)
    for rows in _slices(n, frames):
        part = pixels[rows]
        shape = (4, 4, len(part), height // 2, width // 2)
        products = _view(memory[1], *shape, out_channels)
        for some in _slices(channels, depth):
            transformed = _view(memory[0], *shape, some.stop - some.start)
            _transform_input(part[..., some], transformed)
            if rows.start == 0 or depth < channels:
                by = _transform_kernels(weight[:, some], kernels)
            factors = transformed.flatten(2, 4).flatten(0, 1), by.transpose(1, 2)
            sums = products.flatten(2, 4).flatten(0, 1)
            torch.bmm(*factors, out=sums) if some.start == 0 else sums.baddbmm_(*factors)
        _transform_back(products, out[rows])
    if bias is not None:
        out.add_(bias)
    return out.permute(0, 3, 1, 2)


def _share(count: int, most: int) -> int:
    """The size of equal parts of ``count`` with at most ``most`` in each (at least 1)."""
    parts = -(-count // max(1, most))
    return -(-count // parts)


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _view(memory: Tensor, *shape: int) -> Tensor:
    return memory[: torch.Size(shape).numel()].view(shape)


def _transform_kernels(weight: Tensor, memory: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (16, O, C) in ``memory``: G g G^T."""
    both = torch.kron(_KERNEL, _KERNEL).to(weight.dtype)
    flat = weight.reshape(-1, 9)
    return torch.mm(both, flat.t(), out=_view(memory, 16, len(flat))).view(16, *weight.shape[:2])


def _transform_input(x: Tensor, out: Tensor) -> None:
    """Pixels (N, H, W, C) -> out (4, 4, N, H/2, W/2, C): B^T d B of each 4x4, which overlap by half."""
    n, height, width, channels = x.shape
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    rows = x.new_empty(4, n, height // 2, width + 2, channels)
    _combine([padded[:, i : i + height - 1 : 2] for i in range(4)], rows.unbind(0))
    _combine([rows[:, :, :, i : i + width - 1 : 2] for i in range(4)], out.unbind(1))


def _combine(x: list[Tensor], out: tuple[Tensor, ...]) -> None:
    torch.sub(x[0], x[2], out=out[0])
    torch.add(x[1], x[2], out=out[1])
    torch.sub(x[2], x[1], out=out[2])
    torch.sub(x[1], x[3], out=out[3])


def _transform_back(products: Tensor, out: Tensor) -> None:
    """(4, 4, N, H/2, W/2, O), which are overwritten -> pixels out (N, H, W, O): A^T m A."""
    _add_up(products.unbind(0), products[:2].unbind(0))
    squares = out.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(2, 4, 0, 1, 3, 5)
    _add_up(products[:2].unbind(1), squares.unbind(1))


def _add_up(x: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """x0 + x1 + x2 and x1 - x2 - x3; ``out`` may be x0 and x1."""
    middle = x[1] - x[2]
    torch.add(x[0].add_(x[1]), x[2], out=out[0])
    torch.sub(middle, x[3], out=out[1])
