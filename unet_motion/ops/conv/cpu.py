"""Convolutions on a CPU as matrix products, where torch's own would rearrange its weights or multiply more often."""

from __future__ import annotations

import enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cpu_vectors import WIDE
from ..layer import is_hosted, may_be_computed, weights_of
from . import winograd

FEW_PIXELS = 2048 if WIDE else 1024
"""Output pixels up to which the time that a convolution takes may lie in its weights.

torch's convolution (oneDNN) copies the weights into another order in each call, twice where the input is channels-last;
that takes as long as some hundreds of pixels do.
"""

PRODUCT_FROM, PLANES_FROM = (1500, 350) if WIDE else (0, 0)
"""Products of channels (in * out) for each pixel from which a convolution is one product over gathered windows, which
reads the weights as they lie, and from which it runs plane by plane. Measured for two kinds of processor."""

BFLOAT16_PRODUCT_FROM = 2000
"""The same in bfloat16, where a 3x3 kernel and a 1x1 one become products and nothing runs plane by plane."""

GRADIENT_FROM = 4000
"""Such products from which the gradient for the input of a frozen convolution is a product too."""

MANY_PIXELS = 512
"""Pixels from which kernels that are made anew in each call, in upsampling and in Winograd's way, repay themselves."""


EXACT = (torch.float32, torch.float64)
"""Where sums of weights or of pixels may be rounded before they are multiplied."""


class Algorithm(enum.Enum):
    """How a CPU computes a convolution where torch's own call is not the fastest."""

    LINEAR = "a 1x1 kernel is a linear layer"
    PLANES = "torch's own, plane by plane"
    PRODUCT = "one product over gathered windows"
    WINOGRAD = "16 products in place of 36"


def choose_algorithm(conv: nn.Conv2d, x: Tensor) -> Algorithm | None:
    """The fastest way to compute ``conv(x)``, x (N, C, H, W); None is to call the layer."""
    if not _plain_on_cpu(conv, x):
        return None
    pixels = _pixels(conv, x)
    if x.dtype == torch.bfloat16:
        return _choose_in_bfloat16(conv, x, pixels)
    if conv.kernel_size == (1, 1):
        return Algorithm.LINEAR if _is_linear(conv, x) else None
    if pixels >= MANY_PIXELS and winograd.serves(conv, x) and not _needs_gradients(conv, x):
        # A host's weights may want gradients that the layer does not know of.
        if not is_hosted(conv) or not torch.is_grad_enabled():
            return Algorithm.WINOGRAD
    if not 0 < pixels <= FEW_PIXELS:
        return None
    channels = conv.in_channels * conv.out_channels
    if channels >= PRODUCT_FROM * pixels and (not _needs_gradients(conv, x) or _frozen(conv, pixels)):
        return Algorithm.PRODUCT
    return Algorithm.PLANES if channels >= PLANES_FROM * pixels else None


def _choose_in_bfloat16(conv: nn.Conv2d, x: Tensor, pixels: int) -> Algorithm | None:
    """Only what rounds no more often than the layer itself: Winograd's transforms would lie four times as far off."""
    if not 0 < pixels <= FEW_PIXELS or conv.in_channels * conv.out_channels < BFLOAT16_PRODUCT_FROM * pixels:
        return None
    if conv.kernel_size == (1, 1):
        return Algorithm.LINEAR if _is_linear(conv, x) else None
    # The gradient of a product adds up windows, each of them rounded.
    return None if _needs_gradients(conv, x) else Algorithm.PRODUCT


def convolve(conv: nn.Conv2d, x: Tensor, algorithm: Algorithm) -> Tensor:
    """``conv(x)`` in a chosen way, x (N, C, H, W) in channels-last memory."""
    if algorithm is Algorithm.PLANES:
        return _from_planes(conv(_in_planes(x)))
    weight, bias = weights_of(conv, x)
    if algorithm is Algorithm.LINEAR:
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    if algorithm is Algorithm.WINOGRAD:
        return winograd.convolve(x, weight, bias)
    product = _FrozenProduct.apply if _needs_gradients(conv, x) else by_product
    return product(x, weight, bias, conv.stride[0], int(conv.padding[0]))


def _frozen(conv: nn.Conv2d, pixels: int) -> bool:
    """Whether the gradient for the input alone is wanted, and fast as a product."""
    if is_hosted(conv) or any(p.requires_grad for p in conv.parameters()):
        return False  # a host's weights may lead to parameters that the layer does not have
    return conv.in_channels * conv.out_channels >= GRADIENT_FROM * pixels


def _is_linear(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a 1x1 convolution may read its weights as they lie, as a linear layer does."""
    plain = conv.stride == (1, 1) and conv.padding == (0, 0)
    # A host's layer knows best how gradients pass.
    return plain and not (is_hosted(conv) and _needs_gradients(conv, x))


def _plain_on_cpu(conv: nn.Conv2d, x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype not in (*EXACT, torch.bfloat16):
        return False
    return not torch.compiler.is_compiling() and _is_ordinary(conv)


def _is_ordinary(conv: nn.Conv2d) -> bool:
    """Whether weights, stride and padding with zeros say all of what the layer computes."""
    if not may_be_computed(conv, nn.Conv2d):
        return False
    return (conv.padding_mode, conv.groups, conv.dilation) == ("zeros", 1, (1, 1)) and not isinstance(conv.padding, str)


class _Relayout(torch.autograd.Function):
    """A copy in another order of memory; its gradient is put back into the order that x had."""

    @staticmethod
    def forward(ctx, x: Tensor, to: torch.memory_format, back: torch.memory_format) -> Tensor:
        ctx.back = back
        return x.contiguous(memory_format=to).view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient.contiguous(memory_format=ctx.back), None, None


def _in_planes(x: Tensor) -> Tensor:
    """x (N, C, H, W) plane by plane: there torch's convolution copies its weights once less, forward and backward."""
    return _Relayout.apply(x, torch.contiguous_format, torch.channels_last)


def _from_planes(x: Tensor) -> Tensor:
    """x (N, C, H, W) in channels-last memory again."""
    return _Relayout.apply(x, torch.channels_last, torch.contiguous_format)


def _needs_gradients(conv: nn.Conv2d, x: Tensor) -> bool:
    """Not the mode alone: frozen layers take the same path, to the last bit, with gradients on and off."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in conv.parameters()))


def _pixels(conv: nn.Conv2d, x: Tensor) -> int:
    return x.shape[0] * (x.shape[2] // conv.stride[0]) * (x.shape[3] // conv.stride[1])


def by_product(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """A convolution of x (N, C, H, W) with weight (O, C, K, K) as one product that reads the weights as they lie."""
    planes = padded_planes(x, padding)
    out = product_of_windows(planes, weight, bias, stride)
    return out.permute(0, 3, 1, 2)


class _FrozenProduct(torch.autograd.Function):
    """`by_product` of weights that do not train, with a gradient that reads them as they lie too."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.stride, ctx.padding = x.shape[2:], stride, padding
        return by_product(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (weight,) = ctx.saved_tensors
        n, out, height, width = gradient.shape
        windows = gradient.permute(0, 2, 3, 1).reshape(-1, out) @ weight.flatten(1)
        windows = windows.view(n, height * width, -1).transpose(1, 2)
        x = F.fold(windows, ctx.size, weight.shape[2:], padding=ctx.padding, stride=ctx.stride)
        return x.contiguous(memory_format=torch.channels_last), None, None, None, None


def padded_planes(x: Tensor, padding: int) -> Tensor:
    """x (N, C, H, W) with zeros around each plane, as (C, N, H + 2 * padding, W + 2 * padding)."""
    return F.pad(x.transpose(0, 1), (padding,) * 4).contiguous()


def product_of_windows(planes: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """All windows of planes (C, N, H, W) times weight (O, C, K, K), as (N, H', W', O)."""
    windows = planes.unfold(2, weight.shape[2], stride).unfold(3, weight.shape[3], stride)
    _, n, height, width = windows.shape[:4]
    columns = windows.permute(0, 4, 5, 1, 2, 3).reshape(-1, n * height * width)
    return F.linear(columns.t(), weight.flatten(1), bias).view(n, height, width, -1)


def upsamples_in_phases(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether :func:`upsample_in_phases` is faster than to enlarge x (N, C, H, W) and convolve."""
    many = x.device.type == "cpu" and x.dtype in EXACT and x.shape[0] * x.shape[2] * x.shape[3] >= MANY_PIXELS
    return many and _is_ordinary(conv)


def upsample_in_phases(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3x3 ``conv`` of x upsampled to twice the size (nearest), with 4 products for each 9.

    Rows 2i and 2i + 1 of the upsampled picture are equal, so the kernel's rows that meet them are added: each of the
    four output pixels of an input pixel has a 2x2 kernel of its own.
    """
    weight, bias = weights_of(conv, x)
    n, _, height, width = x.shape
    out = x.new_empty(n, 2 * height, 2 * width, weight.shape[0]).permute(0, 3, 1, 2)
    few = _plain_on_cpu(conv, x) and not _needs_gradients(conv, x) and n * height * width <= FEW_PIXELS
    planes = padded_planes(x, 1) if few else None
    # At 1280 channels a kernel has 26 MB, which take longer to map than to compute: the four share their memory.
    buffer = None if _needs_gradients(conv, x) else weight.new_empty(weight.shape[0] * weight.shape[1], 4)
    for i in range(2):
        for j in range(2):
            kernel = _phase_kernel(weight, i, j, buffer)
            if planes is not None:
                part = planes[:, :, i : i + height + 1, j : j + width + 1]
                part = product_of_windows(part, kernel, bias).permute(0, 3, 1, 2)
            else:
                part = F.conv2d(F.pad(x, (1 - j, j, 1 - i, i)), kernel, bias)
            out[:, :, i::2, j::2] = part
    return out


def _phase_kernel(weight: Tensor, i: int, j: int, out: Tensor | None) -> Tensor:
    """The 2x2 kernel (O, C, 2, 2) that gives output pixel (i, j) of each 2x2 of them."""
    sums = weight.new_zeros(2, 2, 3)
    sums[0, 0, 0] = sums[0, 1, 1] = sums[0, 1, 2] = sums[1, 0, 0] = sums[1, 0, 1] = sums[1, 1, 2] = 1
    # As a product with ones and zeros: strided additions take five times as long.
    kernel = torch.mm(weight.reshape(-1, 9), torch.kron(sums[i], sums[j]).t(), out=out)
    return kernel.view(*weight.shape[:2], 2, 2)
