"""Attention, softmax(q k^T) v: what a processor of it is, and the one that runs where none is chosen.

A processor is a small stateless object with ``attend(query, key, value, mask, scale)`` on (N, heads, L, dim)
views. Nothing here changes global state, so several threads may use different processors at once. Those that can be
chosen by name stand in `processors.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pairs import Make, Pair, size_of
from ..proof import proven
from . import cpu_padded_keys as padded_keys
from . import cpu_short as short_attention
from .temporal import TEMPORAL_ATTENTION, temporal_attention_kernel

MAX_BATCH = 32768
"""Rows per call of a fused kernel: some put the batch on a grid axis that ends at 65535."""


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


def in_batches(
    function, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rows: int | None = None
) -> Tensor:
    """``function(query, key, value, mask)`` for so many rows of the batch at a time, by default MAX_BATCH."""
    rows = rows or MAX_BATCH
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

        return in_batches(run, query, key, value, mask)


class AutoProcessor(SDPAProcessor):
    """The fastest exact processor known for the device.

    On a CPU two batched products for many short sequences, such as the frames of each pixel, and keys filled up to
    whole vectors for others; over frames this project's kernel in the mode "proven", where it was proven; else torch's
    own choice.
    """

    name = "auto"

    def attend(self, query, key, value, mask, scale):
        if short_attention.serves(query, key, value, mask):
            return short_attention.attend(query, key, value, scale)
        if padded_keys.serves(query, key):
            key, value, mask = padded_keys.pad(key, value, mask)
        return super().attend(query, key, value, mask, scale)

    def attend_frames(self, query, key, value, scale):
        if proven(TEMPORAL_ATTENTION, query):
            views = [t.permute(0, 2, 3, 1, 4) for t in (query, key, value)]
            if TEMPORAL_ATTENTION.takes(*views):
                return temporal_attention_kernel(*views, scale).permute(0, 3, 1, 2, 4)
        return super().attend_frames(query, key, value, scale)


DEFAULT_PROCESSOR = AutoProcessor()


@TEMPORAL_ATTENTION.pair("temporal attention of wide heads", row=False, heads=2)
@TEMPORAL_ATTENTION.pair("temporal attention", heads=8)
def _pair(make: Make, clips: int, frames: int, side: int, channels: int, heads: int) -> Pair:
    """The twin is what would run else."""
    q, k, v = (make(clips, frames, side * side, channels).unflatten(-1, (heads, -1)) for _ in range(3))
    query, key, value = (t.permute(0, 2, 3, 1, 4) for t in (q, k, v))
    scale = default_scale(channels // heads)
    return Pair(
        lambda: temporal_attention_kernel(query, key, value, scale).permute(0, 3, 1, 2, 4),
        lambda: DEFAULT_PROCESSOR.attend_frames(q, k, v, scale), (query, key, value), size_of(q, k, v, q),
    )  # fmt: skip


def default_scale(head_dim: int) -> float:
    """1 / sqrt(head_dim)."""
    return 1 / math.sqrt(head_dim)
