"""The named attention processors: how softmax(q k^T) v is computed where a caller chooses it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...values import quoted
from ..dispatch import KERNELS
from ..dispatch import unavailable as triton_unavailable
from . import DEFAULT_PROCESSOR, AttentionProcessor, SDPAProcessor, in_batches
from .temporal import temporal_attention_kernel

HALF = (torch.float16, torch.bfloat16)


class MathProcessor(AttentionProcessor):
    """Two matrix products and a float32 softmax: the reference."""

    name = "math"

    def attend(self, query, key, value, mask, scale):
        compute = torch.promote_types(query.dtype, torch.float32)
        scores = torch.matmul(query.to(compute), key.to(compute).transpose(-1, -2)) * scale
        if mask is not None:
            scores = scores + mask.to(compute)
        return torch.matmul(scores.softmax(dim=-1), value.to(compute)).to(query.dtype)


class SlicedProcessor(MathProcessor):
    """The reference over a few rows of the batch at a time, for little memory.

    Args:
        slice_size: rows (of N) at a time; None keeps the score matrix under 16 million entries.
    """

    name = "sliced"

    def __init__(self, slice_size: int | None = None):
        if slice_size is not None and slice_size < 1:
            raise ValueError(f"`slice_size` is {slice_size}, expected at least 1.")
        self.slice_size = slice_size

    def attend(self, query, key, value, mask, scale):
        _, heads, length, _ = query.shape
        rows = self.slice_size or max(1, (1 << 24) // (heads * length * key.shape[2]))

        def run(q, k, v, m):
            return MathProcessor.attend(self, q, k, v, m, scale)

        return in_batches(run, query, key, value, mask, rows)


def _pad_head_dim(tensors: Iterable[Tensor], multiple: int) -> list[Tensor]:
    return [F.pad(t, (0, -t.shape[-1] % multiple)) if t.shape[-1] % multiple else t for t in _dense(tensors)]


def _dense(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each entry's numbers side by side: torch's operators read them so, whatever the strides say."""
    return [t if t.stride(-1) == 1 else t.contiguous() for t in tensors]


class _TorchKernel(AttentionProcessor):
    """One kernel of torch's attention, called by its operator: choosing it otherwise is a setting of the whole process.

    Attributes:
        operators: in ``torch.ops.aten``, by type of device.
    """

    operators: Mapping[str, str] = {}

    def unavailable(self, device):
        name = self.operators.get(device.type)
        if name is None or not hasattr(torch.ops.aten, name):
            return f"torch has no {self.name.replace('_', '-')} attention on {device.type}"
        return None

    def operator(self, device: torch.device):
        return getattr(torch.ops.aten, self.operators[device.type])


class FlashProcessor(_TorchKernel):
    """The flash-attention kernel of torch, and no other (on CUDA: float16 or bfloat16, no mask)."""

    name = "flash"
    operators = {
        "cpu": "_scaled_dot_product_flash_attention_for_cpu",
        "cuda": "_scaled_dot_product_flash_attention",
    }
    dtypes = {"cuda": HALF, "cpu": (torch.float32, torch.float64, *HALF)}
    capability = (8, 0)
    most_channels = 256
    without_masks = ("cuda",)

    def attend(self, query, key, value, mask, scale):
        dim, op = query.shape[-1], self.operator(query.device)
        if query.device.type == "cpu":
            if mask is not None:
                mask = mask.to(query.dtype).expand(query.shape[0], mask.shape[1], mask.shape[2], mask.shape[3])
            return op(*_dense((query, key, value)), attn_mask=mask, scale=scale)[0]
        if mask is not None or query.dtype not in (torch.float16, torch.bfloat16):
            found = "a mask" if mask is not None else str(query.dtype)
            raise ValueError(f"attention processor 'flash' found {found}, expected float16 or bfloat16 without a mask.")

        def run(q, k, v, m):
            return op(*_pad_head_dim((q, k, v), 8), scale=scale)[0][..., :dim]

        return in_batches(run, query, key, value, None)


class MemoryEfficientProcessor(_TorchKernel):
    """The memory-efficient kernel of torch, and no other (CUDA only)."""

    name = "mem_efficient"
    operators = {"cuda": "_scaled_dot_product_efficient_attention"}

    def attend(self, query, key, value, mask, scale):
        dim, op = query.shape[-1], self.operator(query.device)
        training = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))

        def run(q, k, v, m):
            q, k, v = _pad_head_dim((q, k, v), 8)
            if m is not None:
                # The kernel reads the bias in rows aligned to 16 bytes: pad the storage, hand over a view.
                bias = q.new_zeros(q.shape[0], q.shape[1], q.shape[2], -(-k.shape[2] // 8) * 8)
                m = bias[..., : k.shape[2]].copy_(m.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2]))
            return op(q, k, v, m, training, scale=scale)[0][..., :dim]

        return in_batches(run, query, key, value, mask)


class XFormersProcessor(AttentionProcessor):
    """xformers' memory_efficient_attention (package ``xformers``)."""

    name = "xformers"
    dtypes = {"cuda": (torch.float32, *HALF)}

    def unavailable(self, device):
        return None if device.type == "cuda" else f"xformers has no kernels for {device.type}"

    def attend(self, query, key, value, mask, scale):
        from xformers.ops import memory_efficient_attention

        def run(q, k, v, m):
            if m is not None:
                m = m.to(q.dtype).expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2]).contiguous()
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            return memory_efficient_attention(q, k, v, attn_bias=m, scale=scale).transpose(1, 2)

        return in_batches(run, query, key, value, mask)


class SageProcessor(AttentionProcessor):
    """SageAttention's 8-bit attention (package ``sageattention``): faster, not exact; no mask."""

    name = "sage"
    dtypes = {"cuda": HALF}
    capability = (8, 0)
    most_channels = 128
    without_masks = ("cuda",)

    def unavailable(self, device):
        return None if device.type == "cuda" else f"sageattention has no kernels for {device.type}"

    def attend(self, query, key, value, mask, scale):
        if mask is not None:
            raise ValueError("attention processor 'sage' found a mask, expected none.")
        from sageattention import sageattn

        def run(q, k, v, m):
            return sageattn(q, k, v, tensor_layout="HND", sm_scale=scale)

        return in_batches(run, query, key, value, None)


class TritonProcessor(SDPAProcessor):
    """This project's Triton kernel for sequences of up to 64 entries, such as the frames of each pixel.

    Longer sequences and calls that need gradients run as ``sdpa``.
    """

    name = "triton"

    def declines(self, device, dtype):
        reason = self.unavailable(device)
        return reason or (None if dtype in KERNELS["temporal_attention"].dtypes else f"no kernel for {dtype}")

    def unavailable(self, device):
        return triton_unavailable(device)

    def attend(self, query, key, value, mask, scale):
        if KERNELS["temporal_attention"].declines(query, key, value, mask):
            return super().attend(query, key, value, mask, scale)
        return temporal_attention_kernel(query, key, value, scale, mask)

    def attend_frames(self, query, key, value, scale):
        """All clips in one launch."""
        views = [t.permute(0, 2, 3, 1, 4) for t in (query, key, value)]
        if KERNELS["temporal_attention"].declines(*views, None):
            return super().attend_frames(query, key, value, scale)
        return temporal_attention_kernel(*views, scale).permute(0, 3, 1, 2, 4)


OPTIONAL = {XFormersProcessor: "xformers", SageProcessor: "sageattention"}
"""Processors that are there where their package is installed."""


def _registry() -> dict[str, AttentionProcessor]:
    built_in: tuple[AttentionProcessor, ...] = (
        DEFAULT_PROCESSOR,
        SDPAProcessor(),
        FlashProcessor(),
        MemoryEfficientProcessor(),
        MathProcessor(),
        SlicedProcessor(),
        TritonProcessor(),
    )
    processors: dict[str, AttentionProcessor] = {p.name: p for p in built_in}
    for kind, package in OPTIONAL.items():
        if importlib.util.find_spec(package) is not None:
            processors[kind.name] = kind()
    return processors


PROCESSORS = _registry()


def available_processors(device: torch.device | str = "cpu") -> list[str]:
    """Names of the processors that can run on ``device``."""
    device = torch.device(device)
    return [name for name, processor in PROCESSORS.items() if processor.unavailable(device) is None]


def get_processor(processor: Any) -> Any:
    """The processor of a name, or the given object itself if it is one.

    Raises:
        ValueError: an unknown name, beside the known ones.
        TypeError: an object that is neither an :class:`AttentionProcessor` nor callable.
    """
    if isinstance(processor, str):
        if processor not in PROCESSORS:
            known = ", ".join(PROCESSORS)
            raise ValueError(f"unknown attention processor {quoted(processor)}, expected one of {known}.")
        return PROCESSORS[processor]
    if isinstance(processor, AttentionProcessor) or callable(processor):
        return processor
    raise TypeError(f"an attention processor must be a name or a processor object, found {type(processor).__name__}.")
