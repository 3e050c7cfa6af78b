"""Named attention processors: how softmax(q k^T) v is computed.

A processor is a small stateless object with ``attend(query, key, value, mask, scale)`` on (N, heads, L, dim)
views. Nothing here changes global state, so several threads may use different processors at once.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...values import quoted
from ..dispatch import KERNELS
from ..dispatch import unavailable as triton_unavailable
from . import cpu_padded_keys as padded_keys
from . import cpu_short as short_attention
from .temporal import temporal_attention_kernel

MAX_BATCH = 32768
"""Rows per call of a fused kernel: some put the batch on a grid axis that ends at 65535."""


HALF = (torch.float16, torch.bfloat16)


class AttentionProcessor:
    """Base of the named processors.

    Attributes:
        dtypes: that it takes by type of device, any where a type is not named.
        capability: least compute capability of an NVIDIA GPU.
        most_channels: of a head on a GPU, None where any number is right.
        without_masks: types of device where it takes no mask.
    """

    name = ""
    dtypes: Mapping[str, tuple[torch.dtype, ...]] = {}
    capability: tuple[int, int] = (0, 0)
    most_channels: int | None = None
    without_masks: tuple[str, ...] = ()

    def unavailable(self, device: torch.device) -> str | None:
        """Why this processor cannot run on ``device``, or None."""
        return None

    def declines(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this processor cannot run on ``device`` in ``dtype``, or None."""
        if reason := self.unavailable(device):
            return reason
        if dtype not in self.dtypes.get(device.type, (dtype,)):
            return f"no kernel for {dtype} on {device.type}"
        if device.type == "cuda" and torch.version.hip is None:
            found = torch.cuda.get_device_capability(device)
            if found < self.capability:
                return "it needs compute capability {}.{}, found {}.{}".format(*self.capability, *found)
        return None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Attention of query (N, h, L, d) over key and value (N, h, S, d); mask is additive, scale multiplies q k^T.

        Returns (N, h, L, d) in the query's dtype.
        """
        raise NotImplementedError

    def attend_frames(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention over the frames of each pixel: (B, F, P, heads, dim) each, views of any strides -> the same shape.

        Clip by clip: what it gives need not be moved into another order then.
        """
        if len(query) == 1:
            # Not unbound: the gradient of that copies.
            return self._attend_clip(query.squeeze(0), key.squeeze(0), value.squeeze(0), scale)[None]
        clips = zip(query.unbind(0), key.unbind(0), value.unbind(0), strict=True)
        return torch.stack([self._attend_clip(q, k, v, scale) for q, k, v in clips])

    def _attend_clip(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(F, P, heads, dim) each -> a view of this shape."""
        query, key, value = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        return self.attend(query, key, value, None, scale).permute(2, 0, 1, 3)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def _in_batches(function, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rows: int) -> Tensor:
    if query.shape[0] <= rows:
        return function(query, key, value, mask)
    parts = []
    for start in range(0, query.shape[0], rows):
        part = slice(start, start + rows)
        part_mask = mask[part] if mask is not None and mask.shape[0] > 1 else mask
        parts.append(function(query[part], key[part], value[part], part_mask))
    return torch.cat(parts)


class SDPAProcessor(AttentionProcessor):
    """torch's scaled_dot_product_attention, which picks a kernel itself."""

    name = "sdpa"

    def attend(self, query, key, value, mask, scale):
        def run(q, k, v, m):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=m, scale=scale)

        return _in_batches(run, query, key, value, mask, MAX_BATCH)


class AutoProcessor(SDPAProcessor):
    """The fastest exact processor known for the device.

    On a CPU two batched products for many short sequences, such as the frames of each pixel, and keys filled up to
    whole vectors for others; else torch's own choice.
    """

    name = "auto"

    def attend(self, query, key, value, mask, scale):
        if short_attention.serves(query, key, value, mask):
            return short_attention.attend(query, key, value, scale)
        if padded_keys.serves(query, key):
            key, value, mask = padded_keys.pad(key, value, mask)
        return super().attend(query, key, value, mask, scale)


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

        return _in_batches(run, query, key, value, mask, rows)


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

        return _in_batches(run, query, key, value, None, MAX_BATCH)


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

        return _in_batches(run, query, key, value, mask, MAX_BATCH)


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

        return _in_batches(run, query, key, value, mask, MAX_BATCH)


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

        return _in_batches(run, query, key, value, None, MAX_BATCH)


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
        AutoProcessor(),
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
DEFAULT_PROCESSOR = PROCESSORS["auto"]


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


def default_scale(head_dim: int) -> float:
    """1 / sqrt(head_dim)."""
    return 1 / math.sqrt(head_dim)
