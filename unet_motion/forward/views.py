"""Windows inside motion modules, and layers that see a few frames at a time: parts of one call.

FreeNoise (Qiu et al., 2023, https://arxiv.org/abs/2310.15169, section 3.2) lets the attentions over time see windows of
frames and averages what they give, while all else of the network runs once for each frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Call = Any
"""A `Call` of call.py, which imports this file."""


@dataclass(frozen=True)
class Views:
    """Windows of frames for the attentions over time.

    Args:
        windows: frame numbers of each; every window's positions begin with row 0 of the position table.
        weights: of each window's frames; for each frame of the clip they add up to 1 over the windows.

    Raises:
        ValueError: frames are left out or stand twice in a window, or weights do not add up.
    """

    windows: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        total: dict[int, float] = {}
        if len(self.windows) != len(self.weights):
            raise ValueError(f"`views` have {len(self.windows)} windows and {len(self.weights)} lists of weights.")
        for number, (window, weights) in enumerate(zip(self.windows, self.weights, strict=True)):
            if not window or len(set(window)) != len(window) or min(window) < 0 or len(window) != len(weights):
                raise ValueError(
                    f"window {number} of `views` is {list(window)} with {len(weights)} weights, expected different "
                    "frames and a weight for each."
                )
            for frame, weight in zip(window, weights, strict=True):
                total[frame] = total.get(frame, 0.0) + weight
        for frame in range(max(total, default=-1) + 1):
            found = total.get(frame, 0.0)
            if not math.isclose(found, 1, abs_tol=1e-6):
                raise ValueError(f"weights of `views` for frame {frame} add up to {found:g}, expected 1.")

    @classmethod
    def of(cls, plan: Iterable[tuple[Sequence[int], Sequence[float]]]) -> Views:
        """From windows with their weights, as `ContextWindows.plan` gives them."""
        windows, weights = zip(*plan, strict=True)
        return cls(tuple(map(tuple, windows)), tuple(map(tuple, weights)))

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return 1 + max(map(max, self.windows), default=-1)

    def rows_for(self, frames: int) -> int:
        """Rows of the position table that a clip of so many frames reads.

        Raises:
            ValueError: the windows are for another number of frames.
        """
        if self.frames != frames:
            raise ValueError(f"`views` are for {self.frames} frames, but the clip has {frames}.")
        return self.longest

    @property
    def longest(self) -> int:
        """Frames of the longest window, which the position table must have rows for."""
        return max(map(len, self.windows), default=0)


@dataclass(frozen=True, eq=False)
class View:
    """A window of one call.

    Attributes:
        index: its frames, int64 (L,).
        weights: of these frames, float32 (L,).
        call: the same call for these frames alone.
    """

    index: Tensor
    weights: Tensor
    call: Call

    def of_frames(self, values: float | Tensor | None) -> float | Tensor | None:
        """Values of the whole clip, (1 or B, 1 or F, ...) where they are tensors, for the window's frames."""
        return values.index_select(1, self.index) if isinstance(values, Tensor) and values.shape[1] > 1 else values


def view_calls(call: Call, views: Views, device: torch.device) -> tuple[View, ...]:
    """A call for each window; `frame_positions` are those of a window, from its beginning."""
    found = []
    for window, weights in zip(views.windows, views.weights, strict=True):
        index = torch.tensor(window, device=device)
        part = replace(
            call,
            frames=len(window),
            positions=None if call.positions is None else call.positions[: len(window)],
            lora=None if call.lora is None else call.lora.of_frames(index),
            views=(),
            parts=(),
        )
        found.append(View(index, torch.tensor(weights, device=device), part))
    return tuple(found)


def averaged(views: Sequence[View], tokens: Tensor, function: Callable[[Tensor, View], Tensor]) -> Tensor:
    """The weighted mean of what a function gives for each window of tokens (B, F, P, C), in their dtype."""
    total = torch.zeros_like(tokens, dtype=torch.promote_types(tokens.dtype, torch.float32))
    for view in views:
        found = function(tokens.index_select(1, view.index), view)
        total.index_add_(1, view.index, found.to(total) * view.weights.to(total)[:, None, None])
    return total.to(tokens.dtype)


@dataclass(frozen=True, eq=False)
class Part:
    """Some neighbouring frames of one call, for layers that no frame shares with another.

    Attributes:
        start, stop: the frames.
        call: the same call for these frames alone.
    """

    start: int
    stop: int
    call: Call


def frame_parts(call: Call, size: int) -> tuple[Part, ...]:
    """Calls for so many frames at a time; the last may have fewer. None where one part is all."""
    if size >= call.frames:
        return ()
    parts = []
    for start in range(0, call.frames, size):
        stop = min(start + size, call.frames)

        def cut(rows: Tensor | None, start: int = start, stop: int = stop) -> Tensor | None:
            return rows if rows is None or len(rows) != call.batch * call.frames else _rows(rows, call, start, stop)

        by_frame = call.text is not None and len(call.text) == call.batch * call.frames
        part = replace(
            call,
            frames=stop - start,
            temb=cut(call.temb),
            time_added=call.time_added and {layer: cut(added) for layer, added in call.time_added.items()},
            text=cut(call.text),
            text_mask=cut(call.text_mask),
            # What is kept of a text is kept of all its rows.
            text_keys=None if by_frame else call.text_keys,
            ip_tokens=call.ip_tokens and [cut(tokens) for tokens in call.ip_tokens],
            views=(),
            parts=(),
        )
        parts.append(Part(start, stop, part))
    return tuple(parts)


def part_by_part(call: Call, x: Tensor, function: Callable[[Tensor, Call], Tensor]) -> Tensor:
    """A function of frames (B*F, C, H, W) and their call, on each of the call's parts."""
    out = torch.empty(0)
    for part in call.parts:
        found = function(_rows(x, call, part.start, part.stop), part.call)
        if part.start == 0:
            out = found.new_empty(len(x), *found.shape[1:]).contiguous(memory_format=torch.channels_last)
        target = out.unflatten(0, (call.batch, call.frames))[:, part.start : part.stop]
        target.copy_(found.unflatten(0, (call.batch, part.stop - part.start)))
    return out


def _rows(rows: Tensor, call: Call, start: int, stop: int) -> Tensor:
    """The rows (B*F, ...) of some frames of each clip."""
    if call.batch == 1:
        return rows[start:stop]
    return rows.unflatten(0, (call.batch, call.frames))[:, start:stop].flatten(0, 1)
