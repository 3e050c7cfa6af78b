"""The state that travels with one forward call, and the settings in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.attention import DEFAULT_PROCESSOR
from ..ops.freeu import FreeU
from .call_options import choices, with_other_calls
from .conditioning import Conditioning
from .entry import build_text, check_frames
from .hooks import Hooks
from .lora import LowRank
from .motion_amount import Acting, Amount
from .options import INHERIT, ForwardOptions
from .text_keys import TextKeys
from .views import Part, View, part_by_part

OPTIONS = ("freeu", "forward_chunking", "resnet_norm_scope", "motion_norm_scope")
"""Settings that :class:`unet_motion.ForwardOptions` may choose for a call."""

_CARRIED = ("frame_positions", "hooks")
"""Options that a call carries as they are."""


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a function, keeping its inputs alone for the backward pass."""
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False))


@dataclass(frozen=True)
class Settings:
    """Plain values that do not change in a call; equal settings compute the same.

    Attributes:
        freeu: factors, or None for no FreeU.
        forward_chunking: (chunk_size, dim) of the feed-forward layers, or None.
        resnet_norm_scope, motion_norm_scope: ``frame`` or ``clip``.
        fused_projections: queries, keys and values are one product.
        checkpointing: how activations are computed again in the backward pass (a function that is called with a layer's
            function and its inputs), or None: they are kept.
    """

    freeu: FreeU | None = None
    forward_chunking: tuple[int, int] | None = None
    resnet_norm_scope: str = "frame"
    motion_norm_scope: str = "clip"
    fused_projections: bool = False
    checkpointing: Callable[..., Any] | None = None

    def under(self, options: ForwardOptions) -> Settings:
        """These settings with what the options of a call choose in their place."""
        # Not dataclasses.replace: not every torch that is supported compiles it.
        values = {name: getattr(self, name) for name in _FIELDS}
        for name in OPTIONS:
            chosen = getattr(options, name)
            if chosen is not INHERIT:
                values[name] = chosen
        return Settings(**values)


_FIELDS = tuple(field.name for field in fields(Settings))


@dataclass(frozen=True, eq=False)
class Call:
    """Everything that the layers of one forward call share. Rows are clips (B) or frames (B*F).

    Attributes:
        batch, frames: B and F.
        temb: activated time embedding, (B or B*F, 4 * C0).
        settings: what the layers are to do.
        time_added: what each resnet adds of the time embedding, (B or B*F, C), or None where it computes that itself.
        text: encoder_hidden_states, (B or B*F, L, D), or None.
        text_mask: additive mask on the text, (B or B*F, 1, 1, L), or None.
        text_keys: keeps what the text gives, or None.
        ip_tokens: per IP-Adapter the projected image tokens, (B or B*F, n_images, T, D), or None.
        ip_masks: per IP-Adapter a mask (1 or B, n_images, H, W), or None.
        image_features: the image encoder's map (B*F, C, h, w) for each down block, or None.
        positions: rows of the position table, (F,), or None for 0..F-1.
        processors: attention layer -> its processor, where the call chooses one.
        lora: what motion LoRAs add in this call, or None.
        amounts: motion module -> how strongly it acts, where the call says so.
        more: motion module -> further ones at its place, each with its own call.
        hooks: the host's, or None.
        views: windows for the attentions over time, or none.
        parts: the frames in parts, for layers that no frame shares with another, or none.
    """

    batch: int
    frames: int
    temb: Tensor
    settings: Settings = field(default_factory=Settings)
    time_added: Mapping[nn.Module, Tensor] | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None
    text_keys: TextKeys | None = None
    ip_tokens: list[Tensor] | None = None
    ip_masks: list[Tensor | None] | None = None
    image_features: tuple[Tensor, ...] | None = None
    positions: Tensor | None = None
    processors: Mapping[nn.Module, Any] = field(default_factory=dict)
    lora: LowRank | None = None
    amounts: Mapping[nn.Module, Acting] = field(default_factory=dict)
    more: Mapping[nn.Module, Sequence[tuple[nn.Module, Call]]] = field(default_factory=dict)
    hooks: Hooks | None = None
    views: tuple[View, ...] = ()
    parts: tuple[Part, ...] = ()

    def processor(self, attention: nn.Module) -> Any:
        """The processor of an attention layer in this call."""
        default = getattr(attention.processor, "kernel", attention.processor)
        return self.processors.get(attention) or default or DEFAULT_PROCESSOR

    def amounts_of(self, module: nn.Module, height: int, width: int) -> tuple[Amount | None, Amount | None]:
        """A motion module's scale and effect for its pixels: numbers, (1 or B, F, 1 or H*W, 1), or None for 1."""
        acting = self.amounts.get(module)
        return (None, None) if acting is None else (acting.scale.over(height, width), acting.effect.over(height, width))

    def by_frames(self, x: Tensor, function: Callable[[Tensor, Call], Tensor]) -> Tensor:
        """A function of frames (B*F, C, H, W) and their call, a few at a time where the call says so."""
        return part_by_part(self, x, function) if self.parts else function(x, self)

    def features_of(self, blocks: Sequence[nn.Module]) -> Sequence[Tensor | None]:
        """The image encoder's map for each down block."""
        return (None,) * len(blocks) if self.image_features is None else self.image_features

    def move(self, module: nn.Module, x: Tensor) -> Tensor:
        """x (B*F, C, H, W) with what a motion module adds, and what further ones at its place add."""
        moved = self.run(module, x, self)
        for other, call in self.more.get(module, ()):
            moved = call.run(other, x, call, moved)
        return moved

    def run(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Call ``function``, without keeping its activations where gradient checkpointing is on."""
        if self.settings.checkpointing is not None and torch.is_grad_enabled():
            return self.settings.checkpointing(function, *inputs)
        return function(*inputs)


def begin(
    unet, sample: Tensor, timestep: Any, text: Tensor | None, frames: int, inputs: Conditioning,
    options: ForwardOptions,
) -> Call:  # fmt: skip
    """The call of a :class:`unet_motion.model.unet.MotionUNet` on frames (B*F, C, H, W), its inputs checked.

    Raises:
        ValueError: an input that does not fit, with what was found and expected.
    """
    batch = sample.shape[0] // frames
    rows = frames if options.views is None else options.views.rows_for(frames)
    check_frames(rows, options.frame_positions, unet.config.motion_max_seq_length)
    tokens, mask = build_text(text, inputs.attention_mask, batch, frames, sample.dtype, unet.text_widths)
    temb = unet.embed_time(sample, timestep, batch, frames, inputs, options.hooks)
    plain = _is_plain(options)
    chosen = {} if plain else choices(unet, options, text, batch, frames, temb)
    ip_tokens, ip_masks = unet.project_images(inputs, batch, frames, temb.dtype)
    call = Call(
        batch,
        frames,
        temb,
        unet.defaults.under(options),
        time_added=unet.time_projections(temb),
        text=tokens,
        text_mask=mask,
        ip_tokens=ip_tokens,
        ip_masks=ip_masks,
        image_features=unet.encode_image(inputs, batch, frames, sample),
        positions=options.frame_positions,
        hooks=options.hooks,
        **chosen,
    )
    return call if plain else with_other_calls(call, options, unet)


_EXTRA = tuple(f.name for f in fields(ForwardOptions) if f.name not in (*OPTIONS, *_CARRIED, "attn_processors"))


def _is_plain(options: ForwardOptions) -> bool:
    """Whether options choose nothing but settings and what a call carries as it is; `plan` tells of processors."""
    return all(getattr(options, name) is None or getattr(options, name) == () for name in _EXTRA)
