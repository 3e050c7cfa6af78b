"""Motion modules (AnimateDiff, Guo et al., 2023, https://arxiv.org/abs/2307.04725)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..forward.call import Call
from ..forward.views import View, averaged
from ..ops.attention import AttentionProcessor
from ..ops.feed_forward.cpu import pixels_at_once
from ..ops.group_norm import scoped_group_norm
from ..ops.layer import add_into, overwritable
from ..ops.layer_norm import add_layer_norm
from ..ops.sinusoids import sinusoidal_table
from .attention import Attention
from .layer_factory import LayerFactory
from .transformer import FeedForward


class PositionTable(nn.Module):
    """The position table ``pe`` (1, L, C) as a leaf module, a persistent buffer under diffusers' name."""

    pe: Tensor

    def __init__(self, length: int, channels: int, dtype: torch.dtype | None, device: torch.device | str | None):
        super().__init__()
        self.register_buffer("pe", sinusoidal_table(length, channels, device).to(dtype or torch.get_default_dtype()))

    def rows(self, frames: int, positions: Tensor | None, like: Tensor) -> Tensor:
        """Rows (F, 1, C) for the frames of a call, in the dtype and on the device of ``like``."""
        table = self.pe[0, :frames] if positions is None else self.pe[0].index_select(0, positions.to(self.pe.device))
        return table.to(like)[:, None]


class MotionTransformerBlock(nn.Module):
    """Two self-attentions over the frames of each pixel and a feed-forward layer.

    The position table is added behind each attention's layer norm, not to the residual.
    """

    def __init__(self, make: LayerFactory, width: int, heads: int, head_dim: int, max_seq_length: int):
        super().__init__()
        self.pos_embed = PositionTable(max_seq_length, width, make.dtype, make.device)
        self.norm1 = make.layer_norm(width)
        self.attn1 = Attention(make, width, heads, head_dim)
        self.norm2 = make.layer_norm(width)
        self.attn2 = Attention(make, width, heads, head_dim)
        self.norm3 = make.layer_norm(width)
        self.ff = FeedForward(make, width)

    def forward(self, tokens: Tensor, call: Call, scale: float | Tensor | None = None) -> Tensor:
        """tokens (B, F, P, C); ``scale``: see :meth:`Attention.temporal`."""
        inplace = overwritable(self.norm2, self.norm3)
        if call.views:

            def attended(part: Tensor, view: View) -> Tensor:
                return add_into(*self._attend(part, view.call, view.of_frames(scale)), inplace)

            tokens, normed = add_layer_norm(self.norm3, averaged(call.views, tokens, attended))
            return add_into(tokens, self.feed_forward(normed, call), inplace)
        ahead = self._bias_ahead(tokens, call)
        tokens, normed = add_layer_norm(self.norm3, *self._attend(tokens, call, scale), inplace=inplace, ahead=ahead)
        if ahead is not None:
            return self.ff.onto(tokens, normed)
        return add_into(tokens, self.feed_forward(normed, call), inplace)

    def _bias_ahead(self, tokens: Tensor, call: Call) -> Tensor | None:
        """The feed-forward layer's last bias where it joins the stream first: not beside a LoRA, and not in chunks."""
        if call.settings.forward_chunking is not None:
            return None
        first, last = self.ff.layers
        return None if call.lora is not None and call.lora.of(first.proj, last) else self.ff.bias_ahead(tokens)

    def _attend(self, tokens: Tensor, call: Call, scale: float | Tensor | None) -> tuple[Tensor, Tensor]:
        """The tokens (B, F, P, C) behind the first attention, and what the second one adds."""
        pos_emb = self.pos_embed.rows(call.frames, call.positions, tokens)
        tokens, normed = add_layer_norm(self.norm1, tokens, None, pos_emb)
        tokens, normed = add_layer_norm(self.norm2, tokens, self.attn1.temporal(normed, call, scale), pos_emb)
        return tokens, self.attn2.temporal(normed, call, scale)

    def feed_forward(self, tokens: Tensor, call: Call) -> Tensor:
        """Chunked as the call says; 0 is the axis of the pixels, 1 that of the frames."""
        size, dim = call.settings.forward_chunking or (None, 0)
        first, last = self.ff.layers
        lora = None if call.lora is None else call.lora.of(first.proj, last)
        return self.ff.chunked(tokens, size, 2 if dim == 0 else 1, lora)


class MotionModule(nn.Module):
    """A temporal transformer behind a group norm, with a residual around it.

    ``proj_out`` starts at zero, so a module without trained weights changes nothing, unless the factory says otherwise.

    Attributes:
        most_pixels: so many pixels at a time at most, for less memory, or None.
    """

    most_pixels: int | None = None

    def __init__(self, make: LayerFactory, channels: int, heads: int, depth: int, groups: int, max_seq_length: int):
        super().__init__()
        head_dim = channels // heads
        inner = heads * head_dim
        self.norm = make.group_norm(groups, channels, 1e-6)
        self.proj_in = make.linear(channels, inner)
        self.transformer_blocks = nn.ModuleList(
            MotionTransformerBlock(make, inner, heads, head_dim, max_seq_length) for _ in range(depth)
        )
        self.proj_out = make.linear(inner, channels)
        if make.silent and isinstance(self.proj_out.weight, nn.Parameter):
            nn.init.zeros_(self.proj_out.weight)
            nn.init.zeros_(self.proj_out.bias)
        self._tree: tuple[tuple[nn.Module, tuple[tuple[str, nn.Module | None], ...]], ...] = ()

    def forward(self, x: Tensor, call: Call, onto: Tensor | None = None) -> Tensor:
        """What the module makes of x (B*F, C, H, W), added to ``onto``, which is x by default."""
        n, c, h, w = x.shape
        onto = x if onto is None else onto
        scale, effect = call.amounts_of(self, h, w)
        if isinstance(effect, float) and effect == 0:
            return onto
        hidden = scoped_group_norm(self.norm, x, call.frames, call.settings.motion_norm_scope)
        hidden = hidden.permute(0, 2, 3, 1).reshape(call.batch, call.frames, h * w, c)
        inplace = overwritable(self.norm, self.proj_out)
        pixels = self._pixels_at_once(hidden, call) if inplace else h * w
        if pixels >= h * w:
            hidden = self._transform(hidden, call, scale)
        else:
            for start, part in zip(range(0, h * w, pixels), hidden.split(pixels, dim=2), strict=True):
                part.copy_(self._transform(part.contiguous(), call, _of_pixels(scale, start, part.shape[2])))
        if effect is not None:
            hidden = (hidden * effect).to(hidden.dtype)
        return add_into(hidden.reshape(n, h, w, c).permute(0, 3, 1, 2), onto, inplace)

    def _transform(self, hidden: Tensor, call: Call, scale: float | Tensor | None) -> Tensor:
        """(B, F, P, C) -> (B, F, P, C); no pixel depends on another."""
        tokens = self.proj_in(hidden)
        if call.lora is not None:
            tokens = call.lora.add(self.proj_in, hidden, tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, call, scale)
        out = self.proj_out(tokens)
        return out if call.lora is None else call.lora.add(self.proj_out, tokens, out)

    def _pixels_at_once(self, hidden: Tensor, call: Call) -> int:
        """So many that what is computed of them stays in caches; all, where others want to see them."""
        every = hidden.shape[2]
        pixels = min(pixels_at_once(hidden), self.most_pixels or every)
        if pixels == every or call.settings.forward_chunking is not None:
            return every
        layers = [layer for layer, _ in self._layers()]
        processors = (call.processor(layer) for layer in layers if isinstance(layer, Attention))
        if overwritable(*layers) and all(isinstance(processor, AttentionProcessor) for processor in processors):
            return pixels
        return every

    def _layers(self) -> tuple:
        """This module and all below it, each with its children; walked again only where a layer has other children."""
        if not self._tree or any(tuple(layer._modules.items()) != children for layer, children in self._tree):
            self._tree = tuple((layer, tuple(layer._modules.items())) for layer in self.modules())
        return self._tree


def _of_pixels(scale: float | Tensor | None, start: int, count: int) -> float | Tensor | None:
    """A scale for some of the pixels, where it differs between them."""
    return scale.narrow(2, start, count) if isinstance(scale, Tensor) and scale.shape[2] > 1 else scale
