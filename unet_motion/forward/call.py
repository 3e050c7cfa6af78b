"""The state that travels with one forward call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.attention import DEFAULT_PROCESSOR
from .conditioning import Conditioning, build_text
from .entry_checks import check_frames
from .hooks import Hooks
from .lora import LowRank, lora_terms
from .motion_amount import Acting, Amount, acting_amounts
from .options import ForwardOptions
from .settings import Settings
from .text_keys import TextKeys
from .views import Part, View, Views, frame_parts, view_calls


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
    check_frames(_rows_needed(frames, options.views), options.frame_positions, unet.config.motion_max_seq_length)
    tokens, mask = build_text(text, inputs.attention_mask, batch, frames, sample.dtype, unet.text_widths)
    temb = unet.embed_time(sample, timestep, batch, frames, inputs, options.hooks)
    loras = options.motion_loras
    lora = lora_terms(loras, batch, frames, unet.motion_layer, temb) if loras else None
    amounts = acting_amounts(options.motion_amounts, batch, frames, unet.motion_modules_at, temb)
    processors = {} if options.plan is None else options.plan.by_layer(unet.attention_layers)
    keeps = options.text_keys is not None and options.hooks is None and options.text_keys.start(text)
    ip_tokens, ip_masks = unet.project_images(inputs, batch, frames, temb.dtype)
    call = Call(
        batch,
        frames,
        temb,
        unet.defaults.under(options),
        time_added=unet.time_projections(temb),
        text=tokens,
        text_mask=mask,
        text_keys=options.text_keys if keeps else None,
        ip_tokens=ip_tokens,
        ip_masks=ip_masks,
        image_features=unet.encode_image(inputs, batch, frames, sample),
        positions=options.frame_positions,
        processors=processors,
        lora=lora,
        amounts=amounts,
        hooks=options.hooks,
    )
    whole = _in_parts(call, options, sample.device)
    # Made anew only where it must be: not every torch that is supported compiles `replace`.
    return replace(whole, more=_more(call, options, unet)) if options.more_motion else whole


def _more(call: Call, options: ForwardOptions, unet) -> dict[nn.Module, list[tuple[nn.Module, Call]]]:
    """See :attr:`Call.more`."""
    found: dict[nn.Module, list[tuple[nn.Module, Call]]] = {}
    for more in options.more_motion:
        places = more.beside(unet.motion_modules_at)
        config: Any = more.adapter.config
        rows = config.motion_max_seq_length
        check_frames(_rows_needed(call.frames, options.views), options.frame_positions, rows)
        chosen = {} if options.plan is None else {a: options.plan.lookup(path) for path, a in more.attentions}
        scope = more.motion_norm_scope or call.settings.motion_norm_scope
        theirs = replace(
            call,
            settings=replace(call.settings, motion_norm_scope=scope),
            amounts=acting_amounts(more.amounts, call.batch, call.frames, more.modules, call.temb),
            processors={layer: processor for layer, processor in chosen.items() if processor is not None},
            lora=None,
        )
        theirs = _in_parts(theirs, options, call.temb.device)
        for own, other in places.items():
            found.setdefault(own, []).append((other, theirs))
    return found


def _rows_needed(frames: int, views: Views | None) -> int:
    """Rows of the position table that a call reads."""
    if views is None:
        return frames
    if views.frames != frames:
        raise ValueError(f"`views` are for {views.frames} frames, but the clip has {frames}.")
    return views.longest


def _in_parts(call: Call, options: ForwardOptions, device: torch.device) -> Call:
    """The call with its windows and its parts."""
    views = () if options.views is None else view_calls(call, options.views, device)
    parts: tuple[Part, ...] = ()
    if options.frames_at_once is not None:
        if call.settings.resnet_norm_scope != "frame":
            raise ValueError(
                f"`frames_at_once` is {options.frames_at_once}, but the resnets' norms are over the whole clip; "
                "expected `resnet_norm_scope` 'frame'."
            )
        parts = frame_parts(call, options.frames_at_once)
    return replace(call, views=views, parts=parts) if views or parts else call
