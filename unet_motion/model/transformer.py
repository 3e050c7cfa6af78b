"""Transformers over the pixels of each frame, and the feed-forward layer that motion modules have too.

Activations are (B*F, C, H, W) in channels-last memory, which is (B, F, H*W, C) without a copy: every reshape
between the two below is a view.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..forward.call import Call
from ..forward.hooks import BoundBlock, Step
from ..forward.lora import LowRank
from ..ops.conv import convolve
from ..ops.feed_forward import geglu, geglu_layer
from ..ops.feed_forward.cpu import parts
from ..ops.group_norm import scoped_group_norm
from ..ops.layer import add_into, overwritable
from ..ops.layer_norm import add_layer_norm
from ..ops.layout import from_tokens, to_tokens
from ..ops.linear.onto import add_product, bias_ahead
from .attention import Attention
from .layer_factory import LayerFactory


class GEGLU(nn.Module):
    """A projection to value and gate: value * gelu(gate) (Shazeer, 2020)."""

    def __init__(self, make: LayerFactory, in_features: int, out_features: int):
        super().__init__()
        self.proj = make.linear(in_features, out_features * 2)

    def forward(self, x: Tensor) -> Tensor:
        return geglu_layer(self.proj, x)

    def gate(self, both: Tensor) -> Tensor:
        """The output for the layer's product, which is overwritten where nobody else holds it."""
        return geglu(both, inplace=overwritable(self.proj))


class FeedForward(nn.Module):
    """GEGLU of four times the width and a projection back."""

    def __init__(self, make: LayerFactory, width: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(make, width, width * 4), nn.Dropout(0.0), make.linear(width * 4, width)])

    @property
    def layers(self) -> tuple[GEGLU, nn.Linear]:
        """The first and the last layer."""
        first, _, last = self.net
        return cast(GEGLU, first), cast(nn.Linear, last)

    def forward(self, tokens: Tensor, lora: LowRank | None = None) -> Tensor:
        """tokens (..., C), with a LoRA (B, F, P, C)."""
        # A layer with a hook, such as a LoRA's, may want to see all tokens in their shape.
        first, last = self.layers
        if not overwritable(first.proj, last):
            return self._at_once(tokens, lora)
        flat = tokens.reshape(-1, tokens.shape[-1])
        lora = None if lora is None else lora.flat(tokens.shape)
        pieces = parts(flat)
        if len(pieces) == 1:
            return self._at_once(flat, lora).view(tokens.shape)
        out = torch.empty_like(flat)
        for part in pieces:
            out[part] = self._at_once(flat[part], lora and lora.part(0, part.start, part.stop))
        return out.view(tokens.shape)

    def _at_once(self, tokens: Tensor, lora: LowRank | None) -> Tensor:
        first, last = self.layers
        if lora is None:
            return last(first(tokens))
        inner = first.gate(lora.add(first.proj, tokens, first.proj(tokens)))
        return lora.add(last, inner, last(inner))

    def bias_ahead(self, tokens: Tensor) -> Tensor | None:
        """The last layer's bias (C,), where that joins the residual stream first and :meth:`onto` adds the rest."""
        first, last = self.layers
        return bias_ahead(first.proj, last, tokens)

    def onto(self, tokens: Tensor, normed: Tensor) -> Tensor:
        """The layer on normed tokens added to ``tokens``, which hold the last bias already and are overwritten."""
        first, last = self.layers
        return add_product(tokens, first(normed), last)

    def chunked(self, tokens: Tensor, chunk_size: int | None, dim: int, lora: LowRank | None = None) -> Tensor:
        """The layer on ``chunk_size`` entries of ``dim`` at a time; any size is legal, the last chunk may be short."""
        if chunk_size is None or chunk_size >= tokens.shape[dim]:
            return self(tokens, lora)
        chunks = []
        for start in range(0, tokens.shape[dim], chunk_size):
            size = min(chunk_size, tokens.shape[dim] - start)
            chunks.append(self(tokens.narrow(dim, start, size), lora and lora.part(dim, start, start + size)))
        return torch.cat(chunks, dim=dim)


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and feed-forward, each behind a layer norm."""

    def __init__(self, make: LayerFactory, width: int, heads: int, head_dim: int, cross_attention_dim: int):
        super().__init__()
        self.norm1 = make.layer_norm(width)
        self.attn1 = Attention(make, width, heads, head_dim)
        self.norm2 = make.layer_norm(width)
        self.attn2 = Attention(make, width, heads, head_dim, cross_attention_dim)
        self.norm3 = make.layer_norm(width)
        self.ff = FeedForward(make, width)

    def forward(self, tokens: Tensor, call: Call) -> Tensor:
        """tokens (B*F, H*W, C)."""
        if call.hooks is None:
            return self.run(tokens, call)
        return call.hooks.transformer_block(BoundBlock(self, call), tokens)

    def run(
        self, tokens: Tensor, call: Call, self_attention: Step | None = None, between: Step | None = None,
        cross_attention: Step | None = None,
    ) -> Tensor:  # fmt: skip
        """The block; a host's steps in the place of its own are those of :class:`unet_motion.forward.hooks.BlockSteps`.

        What attention gives has no name here, so that it is freed before the feed-forward layer runs.
        """
        inplace = self_attention is between is cross_attention is None and overwritable(self.norm2, self.norm3)
        attend_pixels = self_attention or (lambda normed: self.attn1.spatial(normed, call, cross=False))
        attend_text = cross_attention or (lambda normed: self.attn2.spatial(normed, call, cross=True))
        tokens, normed = add_layer_norm(self.norm1, tokens)
        if between is None:
            tokens, normed = add_layer_norm(self.norm2, tokens, attend_pixels(normed))
        else:
            tokens, normed = add_layer_norm(self.norm2, between(tokens + attend_pixels(normed)))
        ahead = self.ff.bias_ahead(tokens) if call.settings.forward_chunking is None else None
        tokens, normed = add_layer_norm(self.norm3, tokens, attend_text(normed), inplace=inplace, ahead=ahead)
        if ahead is not None:
            return self.ff.onto(tokens, normed)
        return add_into(tokens, self.feed_forward(normed, call), inplace)

    def feed_forward(self, tokens: Tensor, call: Call) -> Tensor:
        """The feed-forward layer on normalised tokens, chunked as the call says (0: frames, 1: pixels)."""
        return self.ff.chunked(tokens, *(call.settings.forward_chunking or (None, 0)))


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
        self.proj_in = make.linear(channels, inner) if use_linear_projection else make.conv(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(make, inner, heads, head_dim, cross_attention_dim) for _ in range(depth)
        )
        self.proj_out = make.linear(inner, channels) if use_linear_projection else make.conv(inner, channels, 1)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        size = x.shape[-2:]
        hidden = scoped_group_norm(self.norm, x, call.frames, "frame")
        if self.use_linear_projection:
            tokens = self.proj_in(to_tokens(hidden))
        else:
            tokens = to_tokens(convolve(cast(nn.Conv2d, self.proj_in), hidden))
        for block in self.transformer_blocks:
            tokens = call.run(block, tokens, call)
        if self.use_linear_projection:
            out = from_tokens(self.proj_out(tokens), *size)
        else:
            out = convolve(cast(nn.Conv2d, self.proj_out), from_tokens(tokens, *size))
        return add_into(out, x, overwritable(self.proj_out))
