"""The attention layer of spatial and temporal transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..forward.call import Call
from ..ops.attention import AttentionProcessor, default_scale
from ..ops.layer import is_watched
from ..ops.linear.projections import project
from . import foreign_processors as foreign
from .layer_factory import LayerFactory


class Attention(nn.Module):
    """Multi-head attention with diffusers' parameter names (``to_q``, ``to_k``, ``to_v``, ``to_out.0``).

    Args:
        query_dim: width of the queries' tokens.
        heads, head_dim: the inner width is their product.
        cross_attention_dim: width of the context's tokens; None for self-attention.
    """

    # Read by processors that are written for diffusers' attention class.
    group_norm = spatial_norm = norm_q = norm_k = norm_cross = None
    residual_connection = False
    rescale_output_factor = 1.0

    def __init__(
        self, make: LayerFactory, query_dim: int, heads: int, head_dim: int, cross_attention_dim: int | None = None
    ):
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.scale = default_scale(head_dim)
        self.is_cross_attention = cross_attention_dim is not None
        self.context_dim = context_dim = query_dim if cross_attention_dim is None else cross_attention_dim
        self.to_q = make.linear(query_dim, inner, bias=False)
        self.to_k = make.linear(context_dim, inner, bias=False)
        self.to_v = make.linear(context_dim, inner, bias=False)
        self.to_out = nn.ModuleList([make.linear(inner, query_dim), nn.Dropout(0.0)])
        self.processor: Any = None

    @property
    def same_input(self) -> tuple[nn.Linear, ...]:
        """The projections that read the same tokens: all three, or those of the context."""
        return (self.to_k, self.to_v) if self.is_cross_attention else (self.to_q, self.to_k, self.to_v)

    def prepare_attention_mask(self, mask: Tensor | None, target_length: int, batch_size: int) -> Tensor | None:
        """A mask (N, ..., S) repeated per head as (N*heads, 1, S), the form that diffusers' processors expect."""
        if mask is None:
            return None
        return mask.reshape(batch_size, 1, -1).repeat_interleave(self.heads, dim=0)

    def project(self, tokens: Tensor, context: Tensor | None, fused: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of ``tokens``, keys and values of ``context`` (default: ``tokens``); any leading shape."""
        layers = (self.to_q, self.to_k, self.to_v)
        if context is None:
            query, key, value = project(layers, tokens, fused)
        else:
            query, (key, value) = self.to_q(tokens), project(layers[1:], context, fused)
        return query, key, value

    def _project_tokens(self, tokens: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        return self.project(tokens, None, call.settings.fused_projections)

    def _project_text(self, tokens: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        layers = (self.to_k, self.to_v)
        if call.text_keys is None or is_watched(*layers):
            return self.project(tokens, call.text, call.settings.fused_projections)
        keys = call.text_keys.get(layers, lambda: tuple(layer(call.text) for layer in layers))
        return self.to_q(tokens), *keys

    def finish(self, hidden: Tensor) -> Tensor:
        """The output projection."""
        return self.to_out[0](hidden)

    def split_heads(self, x: Tensor) -> Tensor:
        """(N, L, heads*dim) as a view (N, heads, L, dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, processor: AttentionProcessor, query: Tensor, key: Tensor, value: Tensor, mask) -> Tensor:
        """Attention on (N, L, heads*dim) tensors with a named processor."""
        return self.attend_heads(processor, query, key, value, mask).transpose(1, 2).flatten(2)

    def attend_heads(self, processor: AttentionProcessor, query: Tensor, key: Tensor, value: Tensor, mask) -> Tensor:
        """As :meth:`attend`, but (N, heads, L, dim)."""
        self._check_processor(processor, query)
        if mask is not None:
            mask = mask.to(query.dtype)
        query, key, value = (self.split_heads(t) for t in (query, key, value))
        return processor.attend(query, key, value, mask, self.scale)

    @staticmethod
    def _check_processor(processor: AttentionProcessor, x: Tensor) -> None:
        reason = processor.unavailable(x.device)
        if reason is not None:
            raise ValueError(f"attention processor {processor.name!r} cannot run here: {reason}.")

    def spatial(self, tokens: Tensor, call: Call, cross: bool) -> Tensor:
        """Attention over the pixels of each frame, or of each frame's pixels over the text.

        Args:
            tokens: (B*F, H*W, C).
            cross: attend to ``call.text``, whose rows are clips or frames.
        """
        context, mask = (call.text, call.text_mask) if cross else (None, None)
        rows = tokens.shape[0]
        if cross:
            tokens = tokens.reshape(_common_rows(context, call), -1, tokens.shape[-1])
        processor = call.processor(self)
        if not isinstance(processor, AttentionProcessor):
            out = foreign.over_pixels(processor, self, tokens, context, mask, cross and call.ip_tokens is not None)
        else:
            query, key, value = self._project_text(tokens, call) if cross else self._project_tokens(tokens, call)
            hidden = call.hooks.attention(query, key, value, self.heads, mask) if call.hooks is not None else None
            if hidden is None:
                hidden = self.attend(processor, query, key, value, mask)
            if cross and call.ip_tokens is not None:
                hidden = self.processor.add_images(hidden, query, self, processor, call)
            out = self.finish(hidden)
        return out.reshape(rows, -1, out.shape[-1])

    def temporal(self, tokens: Tensor, call: Call, scale: float | Tensor | None = None) -> Tensor:
        """Attention over the frames of each pixel: tokens (B, F, P, C), read as strided views.

        ``scale`` is a factor of the keys, a number or (1 or B, F, 1 or P, 1).
        """
        processor = call.processor(self)
        if not isinstance(processor, AttentionProcessor):
            return foreign.over_frames(processor, self, tokens, call.lora, scale)
        qkv = self._project_tokens(tokens, call)
        if call.lora is not None:
            layers = (self.to_q, self.to_k, self.to_v)
            query, key, value = (call.lora.add(layer, tokens, t) for layer, t in zip(layers, qkv, strict=True))
            qkv = query, key, value
        if scale is not None:
            query, key, value = qkv
            qkv = query, (key * scale).to(key.dtype), value
        self._check_processor(processor, tokens)
        query, key, value = (t.unflatten(-1, (self.heads, -1)) for t in qkv)
        hidden = processor.attend_frames(query, key, value, self.scale).flatten(-2)
        out = self.finish(hidden)
        return out if call.lora is None else call.lora.add(self.to_out[0], hidden, out)


def _common_rows(context: Tensor | None, call: Call) -> int:
    if context is None:
        raise ValueError("`encoder_hidden_states` is None, but the model has cross-attention layers.")
    return context.shape[0]
