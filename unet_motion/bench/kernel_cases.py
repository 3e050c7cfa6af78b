"""Each Triton kernel beside its plain twin, at the size of SD1.5's first level with 16 frames and guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.attention.temporal import temporal_attention_eager, temporal_attention_kernel
from ..ops.dispatch import KERNELS
from ..ops.feed_forward import geglu_eager, geglu_kernel, geglu_product_eager, geglu_product_kernel
from ..ops.float8 import rounded_eager, rounded_kernel
from ..ops.freeu import freeu_concat_eager, freeu_concat_kernel
from ..ops.group_norm import group_norm_eager, group_norm_kernel
from ..ops.layer_norm import add_layer_norm_kernel, layer_norm_eager
from ..ops.residual import residual_sum_eager, residual_sum_kernel
from .cases import Bench, Row
from .measure import Work

GROUPS, EPS, HEADS = 32, 1e-5, 8

Results = Tensor | tuple[Tensor, ...]
"""Of a kernel: one tensor or several."""


@dataclass(frozen=True)
class Pair:
    """A kernel and its plain twin on the same input.

    Attributes:
        tensors: what the kernel's constraints look at, in their order.
        moved: bytes that have to be read and written at least.
        apart: the launches, on the kernels, whose place it takes only where it is faster; None where it always runs.
        work: floating-point operations, where they take the time.
    """

    kernel: Callable[[], Results]
    plain: Callable[[], Results]
    tensors: tuple[Tensor | None, ...]
    moved: int
    apart: Callable[[], Results] | None = None
    work: float = 0.0


Make = Callable[..., Tensor]


def _size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _temporal_attention(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    tokens = [make(clips, frames, side * side, channels) for _ in range(3)]
    query, key, value = (t.unflatten(-1, (HEADS, -1)).permute(0, 2, 3, 1, 4) for t in tokens)
    scale = (channels // HEADS) ** -0.5
    return Pair(
        lambda: temporal_attention_kernel(query, key, value, scale),
        lambda: temporal_attention_eager(query, key, value, scale),
        (query, key, value), _size(*tokens, tokens[0]),
    )  # fmt: skip


def _group_norm(make: Make, clips: int, frames: int, side: int, channels: int, added: bool = False) -> Pair:
    tokens, weight, bias = make(clips * frames, side * side, channels), make(channels), make(channels)
    rows = make(clips, channels) if added else None
    given = (tokens, weight, bias, GROUPS, EPS, True, rows)
    return Pair(
        lambda: group_norm_kernel(*given), lambda: group_norm_eager(*given), (tokens, weight, bias, rows),
        3 * _size(tokens),
    )  # fmt: skip


def _geglu(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    x = make(frames, clips * side * side, 8 * channels)
    return Pair(lambda: geglu_kernel(x), lambda: geglu_eager(x), (x,), _size(x) * 3 // 2)


def _geglu_product(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    """A product of about 1's size, by a power of two, so that in float64 the weights are the same."""
    x, weight, bias = make(frames, clips * side * side, channels), make(8 * channels, channels), make(8 * channels)
    weight.mul_(2.0 ** -(channels.bit_length() // 2))
    given, written = (x, weight, bias), 4 * x.numel() * x.element_size()
    return Pair(
        lambda: geglu_product_kernel(*given), lambda: geglu_product_eager(*given), given, _size(*given) + written,
        apart=lambda: geglu_kernel(F.linear(*given)), work=16.0 * x.numel() * channels,
    )  # fmt: skip


def _layer_norm(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    x, residual = (make(frames, clips * side * side, channels) for _ in range(2))
    weight, bias, rows = make(channels), make(channels), make(frames, channels)
    return Pair(
        lambda: add_layer_norm_kernel(x, residual, weight, bias, rows, EPS),
        lambda: layer_norm_eager(x, weight, bias, EPS, rows, residual),
        (x, weight, bias, rows, residual), 4 * _size(x),
    )  # fmt: skip


def _residual_sum(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    hidden, skip = (make(clips * frames, side, side, channels).permute(0, 3, 1, 2) for _ in range(2))
    bias = make(channels)
    return Pair(
        lambda: residual_sum_kernel(hidden, skip, bias), lambda: residual_sum_eager(hidden, skip, bias),
        (hidden, skip, bias), 3 * _size(hidden),
    )  # fmt: skip


def _freeu(make: Make, clips: int, frames: int, side: int, channels: int, version: str) -> Pair:
    images = (make(clips * frames, side // 4, side // 4, 4 * channels).permute(0, 3, 1, 2) for _ in range(2))
    hidden, skip = images
    given = (hidden, skip, 1.5, 0.9, version == "v2", None)
    reads = _size(hidden, skip, skip) + (_size(hidden) if version == "v2" else 0)
    return Pair(
        lambda: freeu_concat_kernel(*given), lambda: freeu_concat_eager(*given), (hidden, skip, None),
        reads + _size(hidden, skip),
    )  # fmt: skip


def _float8(make: Make, clips: int, frames: int, side: int, channels: int) -> Pair:
    """The bytes of the results, which have to be equal: in the order of the numbers, but for their sign."""
    x = make(frames, clips * side * side, 4 * channels)
    return Pair(
        lambda: rounded_kernel(x).view(torch.uint8), lambda: rounded_eager(x).view(torch.uint8), (x,),
        _size(x) + x.numel(),
    )  # fmt: skip


PAIRS: dict[str, tuple[str, Callable[..., Pair]]] = {
    "temporal attention": ("temporal_attention", _temporal_attention),
    "group norm and SiLU": ("group_norm", _group_norm),
    "group norm and SiLU behind the time embedding": ("group_norm", partial(_group_norm, added=True)),
    "GEGLU": ("geglu", _geglu),
    "GEGLU inside the product": ("geglu_product", _geglu_product),
    "residual, layer norm and positions": ("layer_norm", _layer_norm),
    "residual sum and bias": ("residual_sum", _residual_sum),
    "rounding to float8": ("float8", _float8),
    "FreeU v1 and concatenation": ("freeu", partial(_freeu, version="v1")),
    "FreeU v2 and concatenation": ("freeu", partial(_freeu, version="v2")),
}
"""What is timed -> the kernel's name in KERNELS, and its input."""


@torch.no_grad()
def kernels(bench: Bench, clips: int, frames: int, side: int, channels: int = 320, inner: int = 10) -> list[Row]:
    """A row for each kernel, ``inner`` calls a sample; where one cannot run, its row says why."""
    rows = []
    for words, (name, pair_of) in PAIRS.items():
        case = f"kernel: {words}, {clips}x{frames}x{side}x{side}, {channels} channels"
        generator = torch.Generator(bench.device).manual_seed(0)

        def make(*shape: int, generator=generator) -> Tensor:
            return torch.randn(*shape, generator=generator, device=bench.device).to(bench.dtype)

        # A pair of small input asks for the reason without the memory of the large one.
        why = KERNELS[name].declines(*pair_of(make, 1, 2, 4, channels).tensors)
        if why is not None:
            rows.append(Row(case, "plain PyTorch", note=f"not measured: {why}"))
            continue
        pair = pair_of(make, clips, frames, side, channels)
        row = bench.compare(case, "plain PyTorch", _one(pair.kernel), _one(pair.plain), inner=inner)
        row.flops, row.moved = None, pair.moved
        if row.ours is not None and row.ratio:
            row.note = f"{100 * pair.moved / bench.ceilings.bytes / row.ours:.0f} % of the copy's bandwidth"
        rows.append(row)
    return rows


def _one(work: Callable[[], Results]) -> Work:
    """The last of several results, which depends on all input, so that it can be compared."""
    return lambda: result[-1] if isinstance(result := work(), tuple) else result
