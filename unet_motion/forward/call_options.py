"""What the options of a call bring into it beside settings: processors, LoRAs, amounts, windows, further modules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .entry import check_frames
from .lora import lora_terms
from .motion_amount import acting_amounts
from .options import ForwardOptions
from .views import Part, frame_parts, view_calls

Call = Any
"""A `Call` of call.py, which imports this file."""


def choices(
    unet, options: ForwardOptions, text: Tensor | None, batch: int, frames: int, temb: Tensor
) -> dict[str, Any]:
    """Fields of a call of a :class:`unet_motion.model.unet.MotionUNet`.

    Args:
        text: as the caller gave it.
        batch, frames: B and F.
        temb: on the device and in the dtype of the call.

    Raises:
        ValueError: an option that does not fit the model or the clip.
    """
    loras = options.motion_loras
    keeps = options.text_keys is not None and options.hooks is None and options.text_keys.start(text)
    return {
        "lora": lora_terms(loras, batch, frames, unet.motion_layer, temb) if loras else None,
        "amounts": acting_amounts(options.motion_amounts, batch, frames, unet.motion_modules_at, temb),
        "processors": {} if options.plan is None else options.plan.by_layer(unet.attention_layers),
        "text_keys": options.text_keys if keeps else None,
    }


def with_other_calls(call: Call, options: ForwardOptions, unet) -> Call:
    """The call with those for its windows, for its parts and for further motion modules."""
    whole = _in_parts(call, options, call.temb.device)
    # Made anew only where it must be: not every torch that is supported compiles `replace`.
    return replace(whole, more=_more(call, options, unet)) if options.more_motion else whole


def _more(call: Call, options: ForwardOptions, unet) -> dict[nn.Module, list[tuple[nn.Module, Call]]]:
    """See :attr:`Call.more`."""
    found: dict[nn.Module, list[tuple[nn.Module, Call]]] = {}
    for more in options.more_motion:
        places = more.beside(unet.motion_modules_at)
        config: Any = more.adapter.config
        rows = config.motion_max_seq_length
        needed = call.frames if options.views is None else options.views.longest
        check_frames(needed, options.frame_positions, rows)
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
