"""Options of one forward call."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..config.unet import check_norm_scope
from ..ops.freeu import FreeU
from ..values import quoted
from .hooks import Hooks
from .lora import MotionLora
from .more_motion import MoreMotion
from .motion_amount import MotionAmount
from .processor_plan import ProcessorPlan
from .text_keys import TextKeys
from .views import Views


class _Inherit(enum.Enum):
    # An enumeration is one object in copies, in pickles and in compiled graphs.
    INHERIT = "inherit"

    def __repr__(self) -> str:
        return "INHERIT"

    def __bool__(self) -> bool:
        return False


INHERIT = _Inherit.INHERIT
"""Marks an option that is left at the model's default."""


def check_chunking(chunking: Any) -> None:
    """Raise ValueError unless ``chunking`` is None or (chunk_size >= 1, dim 0 or 1)."""
    if chunking is None:
        return
    if not isinstance(chunking, (tuple, list)) or len(chunking) != 2:
        raise ValueError(f"`forward_chunking` is {quoted(chunking)}, expected (chunk_size, dim) or None.")
    size, dim = chunking
    if dim not in (0, 1):
        raise ValueError(f"Make sure to set `dim` to either 0 or 1, not {dim}.")
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"`chunk_size` is {quoted(size)}, expected a whole number of at least 1.")


@dataclass(frozen=True, eq=False)
class ForwardOptions:
    """Overrides of a model's defaults for one call; a field left at ``INHERIT`` keeps the default.

    Args:
        freeu: :class:`FreeU` factors, or None for no FreeU.
        attn_processors: a processor name, an object, or a dict from path pattern to either.
        forward_chunking: (chunk_size, dim) of the feed-forward layers, or None for no chunking.
        resnet_norm_scope, motion_norm_scope: ``frame`` or ``clip``.
        frame_positions: rows of the position table, int64 (F,), in the order of the frames; None for 0..F-1.
        hooks: the host's :class:`Hooks`, or None.
        motion_loras: see :func:`unet_motion.load_motion_lora`; they act beside those of ``apply_motion_lora``.
        motion_amounts: how strongly motion modules act; see :class:`MotionAmount`.
        more_motion: further motion modules beside the UNet's own; see :class:`MoreMotion`.
        text_keys: keeps what the text gives from step to step; see :class:`TextKeys`. Not read where gradients are
            computed, in compiled code and beside ``hooks``.
        views: windows for the attentions over time, in the place of all frames; ``frame_positions`` are then those of
            a window, and the position table needs rows for the longest one only.
        frames_at_once: so many frames at a time in the layers between motion modules, whose memory then does not grow
            with the frames; the same values. Not with resnet norms over the clip, nor beside ``hooks`` that see all
            frames in their blocks (:meth:`Hooks.takes_parts`).
    """

    freeu: FreeU | None | _Inherit = INHERIT
    attn_processors: Any = INHERIT
    forward_chunking: tuple[int, int] | None | _Inherit = INHERIT
    resnet_norm_scope: str | _Inherit = INHERIT
    motion_norm_scope: str | _Inherit = INHERIT
    frame_positions: Tensor | None = None
    hooks: Hooks | None = None
    motion_loras: Sequence[MotionLora] = ()
    motion_amounts: Sequence[MotionAmount] = ()
    more_motion: Sequence[MoreMotion] = ()
    text_keys: TextKeys | None = None
    views: Views | None = None
    frames_at_once: int | None = None
    plan: ProcessorPlan | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.freeu is not INHERIT and self.freeu is not None and not isinstance(self.freeu, FreeU):
            raise TypeError(f"`freeu` must be a FreeU object or None, found {type(self.freeu).__name__}.")
        if self.views is not None and not isinstance(self.views, Views):
            raise TypeError(f"`views` must be a Views object or None, found {type(self.views).__name__}.")
        size = self.frames_at_once
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"`frames_at_once` is {quoted(size)}, expected a whole number of at least 1, or None.")
        if size is not None and self.hooks is not None and not self.hooks.takes_parts():
            raise ValueError("`frames_at_once` does not go with `hooks` that see all frames at once.")
        if self.forward_chunking is not INHERIT:
            check_chunking(self.forward_chunking)
        for name in ("resnet_norm_scope", "motion_norm_scope"):
            if getattr(self, name) is not INHERIT:
                check_norm_scope(name, getattr(self, name))
        if self.attn_processors is not INHERIT:
            object.__setattr__(self, "plan", ProcessorPlan(self.attn_processors))
