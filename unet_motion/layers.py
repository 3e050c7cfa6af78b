"""Embeddings, resnets, transformers and resampling layers of the UNet.

Activations are (B*F, C, H, W) in channels-last memory, which is (B, F, H*W, C) without a copy: every reshape
between the two below is a view.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import narrow_groups
from .attention import Attention
from .convolution import convolve, convolve_upsampled
from .factory import LayerFactory, Weights
from .in_place import add_into, has_layout, overwritable
from .kernels.dispatch import wanted
from .kernels.geglu import GatedProduct, geglu
from .kernels.group_norm import group_norm
from .kernels.layer_norm import layer_norm
from .low_rank import LowRank
from .options import Call

_ACTIVATIONS = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}


def activation(name: str):
    """The activation function of a config's ``act_fn``."""
    return _ACTIVATIONS[name]


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H*W, C); a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def from_tokens(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H*W, C) as channels-last (N, C, H, W); a view."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def scoped_group_norm(
    norm: nn.Module, x: Tensor, frames: int, scope: str, weights: Weights, act=None, added: Tensor | None = None,
    own: bool = False,
) -> Tensor:  # fmt: skip
    """Group norm of x (B*F, C, H, W) with statistics per frame or over all frames of a clip, and an activation.

    A vector (B, C) per clip or (B*F, C) per frame is added to x before, in place where x is the caller's ``own``.
    """
    clips = x.shape[0] if scope == "frame" else x.shape[0] // frames
    fused = wanted() and not norm._forward_hooks
    if added is not None and not (fused and clips % added.shape[0] == 0):
        x, added = add_per_row(x, added, own), None
    if fused:
        n, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(clips, -1, c)
        out = group_norm(tokens, *weights(norm, x), norm.num_groups, norm.eps, act is F.silu, added)
        out = from_tokens(out.reshape(n, h * w, c), h, w)
        return out if act in (None, F.silu) else act(out)
    out = _plain_group_norm(norm, x, frames, scope, weights)
    if act is F.silu:
        return F.silu(out, inplace=overwritable(norm) and has_layout(out))
    return out if act is None else act(out)


def summed_layer_norm(
    norm: nn.Module, weights: Weights, tokens: Tensor, added: Tensor | None = None, rows: Tensor | None = None,
    own: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """tokens + added, and the layer norm of it; rows (F, 1, C) are added to the norm of tokens (B, F, P, C).

    The sum may be written into tokens that are the caller's ``own``.
    """
    if wanted() and not norm._forward_hooks:
        table = None if rows is None else rows[:, 0]
        return layer_norm(tokens, *weights(norm, tokens), norm.eps, table, added)
    if added is not None:
        tokens = add_into(tokens, added, own)
    out = norm(tokens)
    return tokens, out if rows is None else add_into(out, rows, overwritable(norm))


def _plain_group_norm(norm: nn.Module, x: Tensor, frames: int, scope: str, weights: Weights) -> Tensor:
    if narrow_groups.serves(norm, x, weights):
        clips = x.shape[0] if scope == "frame" else x.shape[0] // frames
        tokens = to_tokens(x).reshape(clips, -1, x.shape[1])
        out = narrow_groups.group_norm(tokens, *weights(norm, x), norm.num_groups, norm.eps)
        return from_tokens(out.reshape(x.shape[0], -1, x.shape[1]), *x.shape[-2:])
    if _would_crash(norm, x):
        x = x.detach().requires_grad_()
    if scope == "frame" or frames == 1:
        # Of one frame, traced views and real ones have different strides; the kernel reads the layout off them.
        return norm(from_tokens(to_tokens(x), *x.shape[-2:]) if torch.compiler.is_compiling() else x)
    n, c, h, w = x.shape
    clip = x.permute(0, 2, 3, 1).reshape(n // frames, frames * h, w, c).permute(0, 3, 1, 2)
    return norm(clip).permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)


def _would_crash(norm: nn.Module, x: Tensor) -> bool:
    """Whether torch's backward pass would read a null pointer.

    On the CPU that of group norm on channels-last memory does (torch 2.11), where only the weights want a gradient: so
    it is in the first motion module behind frozen image layers.
    """
    weight = getattr(norm, "weight", None)
    wanted = weight is not None and weight.requires_grad and not x.requires_grad and torch.is_grad_enabled()
    return wanted and x.device.type == "cpu" and not torch.compiler.is_compiling()


def timestep_sinusoid(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding, float32 (R, width): cosines first, longest period 10000 (Ho et al., 2020)."""
    half = width // 2
    # In this order of operations the values are those of diffusers and ComfyUI to the last bit.
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * exponent.exp()[None]
    out = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(out, (0, 1)) if width % 2 else out


class TimestepEmbedding(nn.Module):
    """Two linear layers with an activation between them; ``cond_proj`` adds a condition to the input."""

    def __init__(
        self, make: LayerFactory, in_channels: int, out_channels: int, act_fn: str, cond_dim: int | None = None
    ):
        super().__init__()
        self.linear_1 = make.linear(in_channels, out_channels)
        self.cond_proj = make.linear(cond_dim, in_channels, bias=False) if cond_dim is not None else None
        self.act = activation(act_fn)
        self.linear_2 = make.linear(out_channels, out_channels)

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        """sample (R, in_channels), condition (R, cond_dim) -> (R, out_channels)."""
        if condition is not None:
            sample = sample + self.cond_proj(condition)
        return self.linear_2(self.act(self.linear_1(sample)))


class ResnetBlock(nn.Module):
    """Norm, activation, convolution, twice, with the time embedding between and a skip."""

    def __init__(
        self, make: LayerFactory, in_channels: int, out_channels: int, temb_channels: int, groups: int, eps: float,
        act_fn: str, output_scale_factor: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        self.norm1 = make.group_norm(groups, in_channels, eps)
        self.conv1 = make.conv(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = make.linear(temb_channels, out_channels)
        self.norm2 = make.group_norm(groups, out_channels, eps)
        self.conv2 = make.conv(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = make.conv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.act = activation(act_fn)
        self.weights = make.weights
        self.output_scale_factor = output_scale_factor

    def forward(self, x: Tensor, call: Call) -> Tensor:
        frames, scope = call.frames, call.resnet_norm_scope
        hidden = scoped_group_norm(self.norm1, x, frames, scope, self.weights, self.act)
        hidden = convolve(self.conv1, hidden, self.weights)
        added = self.time_emb_proj(call.temb) if call.time_added is None else call.time_added[self]
        own = overwritable(self.conv1)
        hidden = scoped_group_norm(self.norm2, hidden, frames, scope, self.weights, self.act, added, own)
        hidden = convolve(self.conv2, hidden, self.weights)
        skip = x if self.conv_shortcut is None else convolve(self.conv_shortcut, x, self.weights)
        out = add_into(hidden, skip, overwritable(self.conv2))
        return out if self.output_scale_factor == 1 else out / self.output_scale_factor


def add_per_row(x: Tensor, vector: Tensor, own: bool) -> Tensor:
    """x (B*F, C, H, W) plus a vector (B, C) per clip or (B*F, C) per frame, broadcast and never repeated."""
    clips = x.unflatten(0, (vector.shape[0], -1))
    return add_into(clips, vector[:, None, :, None, None], own).flatten(0, 1)


class Downsample(nn.Module):
    """Convolution with stride 2; ``padding`` 0 pads right and bottom by hand."""

    def __init__(self, make: LayerFactory, channels: int, padding: int):
        super().__init__()
        self.conv = make.conv(channels, channels, 3, stride=2, padding=padding)
        self.weights = make.weights
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv, F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x, self.weights)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, to twice the size or to that of the next skip, and a convolution."""

    def __init__(self, make: LayerFactory, channels: int):
        super().__init__()
        self.conv = make.conv(channels, channels, 3, padding=1)
        self.weights = make.weights

    def forward(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        return convolve_upsampled(self.conv, x, size, self.weights)


class GEGLU(nn.Module):
    """A projection to value and gate: value * gelu(gate) (Shazeer, 2020)."""

    def __init__(self, make: LayerFactory, in_features: int, out_features: int):
        super().__init__()
        self.proj = make.linear(in_features, out_features * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.proj(x))

    def gate(self, both: Tensor) -> Tensor:
        """The output for the layer's product, which is overwritten where no gradient is needed."""
        if wanted():
            return geglu(both)
        if both.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return GatedProduct.apply(both)
        value, gate = both.chunk(2, dim=-1)
        if torch.is_grad_enabled() or self.proj._forward_hooks:
            return value * F.gelu(gate)
        # In place: at this width the tensors are the largest of the network.
        return value.mul_(torch.ops.aten.gelu_(gate))


CPU_CHUNK = 1 << 21
"""Entries of a feed-forward layer's inner tensor that a CPU computes at once, so that they stay in its caches."""

CPU_ROWS = 1024
"""But at least so many tokens, as the weights are read again for each part."""


def rows_at_once(width: int) -> int:
    """Tokens of a width that a CPU computes at once."""
    return max(CPU_ROWS, CPU_CHUNK // (8 * width))


class FeedForward(nn.Module):
    """GEGLU of four times the width and a projection back."""

    def __init__(self, make: LayerFactory, width: int):
        super().__init__()
        self.path = ""
        self.net = nn.ModuleList([GEGLU(make, width, width * 4), nn.Dropout(0.0), make.linear(width * 4, width)])

    def forward(self, tokens: Tensor, change: LowRank | None = None) -> Tensor:
        """tokens (..., C), with a change (B, F, P, C)."""
        # A layer with a hook, such as a LoRA's, may want to see all tokens in their shape.
        if not overwritable(self.net[0].proj, self.net[2]):
            return self._at_once(tokens, change)
        flat = tokens.reshape(-1, tokens.shape[-1])
        change = None if change is None else change.flat(tokens.shape)
        parts = self._parts(flat)
        if len(parts) == 1:
            return self._at_once(flat, change).view(tokens.shape)
        out = torch.empty_like(flat)
        for part in parts:
            out[part] = self._at_once(flat[part], change and change.part(0, part.start, part.stop))
        return out.view(tokens.shape)

    @staticmethod
    def _parts(flat: Tensor) -> list[slice]:
        """Which of the tokens (N, C) are computed at once."""
        rows = rows_at_once(flat.shape[1]) if flat.device.type == "cpu" else len(flat)
        return [slice(start, min(start + rows, len(flat))) for start in range(0, len(flat), rows)]

    def _at_once(self, tokens: Tensor, change: LowRank | None) -> Tensor:
        first, last = self.net[0], self.net[2]
        if change is None:
            return last(first(tokens))
        inner = first.gate(change.add(f"{self.path}.net.0.proj", tokens, first.proj(tokens)))
        return change.add(f"{self.path}.net.2", inner, last(inner))

    def chunked(self, tokens: Tensor, chunk_size: int | None, dim: int, change: LowRank | None = None) -> Tensor:
        """The same, ``chunk_size`` entries of ``dim`` at a time; any size is legal, the last chunk may be short."""
        if chunk_size is None or chunk_size >= tokens.shape[dim]:
            return self(tokens, change)
        parts = []
        for start in range(0, tokens.shape[dim], chunk_size):
            size = min(chunk_size, tokens.shape[dim] - start)
            parts.append(self(tokens.narrow(dim, start, size), change and change.part(dim, start, start + size)))
        return torch.cat(parts, dim=dim)


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and feed-forward, each behind a layer norm."""

    def __init__(self, make: LayerFactory, width: int, heads: int, head_dim: int, cross_attention_dim: int):
        super().__init__()
        self.norm1 = make.layer_norm(width)
        self.attn1 = Attention(make, width, heads, head_dim)
        self.norm2 = make.layer_norm(width)
        self.attn2 = Attention(make, width, heads, head_dim, cross_attention_dim)
        self.norm3 = make.layer_norm(width)
        self.weights = make.weights
        self.ff = FeedForward(make, width)

    def forward(self, tokens: Tensor, call: Call) -> Tensor:
        """tokens (B*F, H*W, C)."""
        if call.hooks is None:
            return self.plain(tokens, call)
        return call.hooks.transformer_block(self, tokens, call, lambda t: self.plain(t, call))

    def plain(self, tokens: Tensor, call: Call) -> Tensor:
        own = overwritable(self.norm2, self.norm3)
        tokens, normed = summed_layer_norm(self.norm1, self.weights, tokens)
        # What attention gives has no name here, so that it is freed before the feed-forward layer runs.
        tokens, normed = summed_layer_norm(
            self.norm2, self.weights, tokens, self.attn1.spatial(normed, call, cross=False)
        )
        tokens, normed = summed_layer_norm(
            self.norm3, self.weights, tokens, self.attn2.spatial(normed, call, cross=True), own=own
        )
        return add_into(tokens, self.feed_forward(normed, call), own)

    def feed_forward(self, tokens: Tensor, call: Call) -> Tensor:
        """The feed-forward layer on normalised tokens, chunked as the call says (0: frames, 1: pixels)."""
        return self.ff.chunked(tokens, *(call.chunking or (None, 0)))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of each frame, with a residual around them."""

    def __init__(
        self, make: LayerFactory, channels: int, heads: int, depth: int, cross_attention_dim: int, groups: int,
        use_linear_projection: bool,
    ):  # fmt: skip
        super().__init__()
        head_dim = channels // heads
        inner = heads * head_dim
        self.use_linear_projection = use_linear_projection
        self.norm = make.group_norm(groups, channels, 1e-6)
        self.weights = make.weights
        self.proj_in = make.linear(channels, inner) if use_linear_projection else make.conv(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(make, inner, heads, head_dim, cross_attention_dim) for _ in range(depth)
        )
        self.proj_out = make.linear(inner, channels) if use_linear_projection else make.conv(inner, channels, 1)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        size = x.shape[-2:]
        hidden = scoped_group_norm(self.norm, x, call.frames, "frame", self.weights)
        if self.use_linear_projection:
            tokens = self.proj_in(to_tokens(hidden))
        else:
            tokens = to_tokens(convolve(self.proj_in, hidden, self.weights))
        for block in self.transformer_blocks:
            tokens = call.run(block, tokens, call)
        if self.use_linear_projection:
            out = from_tokens(self.proj_out(tokens), *size)
        else:
            out = convolve(self.proj_out, from_tokens(tokens, *size), self.weights)
        return add_into(out, x, overwritable(self.proj_out))
