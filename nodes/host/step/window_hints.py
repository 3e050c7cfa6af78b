"""ControlNets, T2I-Adapters and ControlLoras whose hints are one for each frame, in a window of a clip."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

KEPT_BYTES = 256 * 2**20
"""How much the hints of windows may take that are kept for the next step."""

RUN = "unet_motion_hints"
"""Where a run's `WindowHints` stand in `transformer_options`."""


def chain(control: Any) -> Iterator[Any]:
    """A control and those before it."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def follows_frames(control: Any) -> bool:
    """Whether a control reads `ad_params` itself, as those of ComfyUI-Advanced-ControlNet."""
    return hasattr(control, "sub_idxs")


def check_hints(control: Any, frames: int, total: int) -> None:
    """Raise ValueError unless each hint of a chain is one for all, or there is one for each frame.

    Args:
        frames: of a clip.
        total: of all clips in the batch.
    """
    for item in chain(control):
        if not follows_frames(item):
            for hint in _hints(item):
                if len(hint) not in (1, frames, total):
                    raise ValueError(
                        f"a {type(item).__name__} has {len(hint)} hints, but the clip has {frames} frames; with "
                        "context windows give it one hint for all frames or one for each."
                    )


def _hints(control: Any) -> list[Tensor]:
    hint = control.cond_hint_original
    return [*([] if hint is None else [hint]), *(getattr(control, "extra_concat_orig", None) or ())]


class WindowHints:
    """Controls of a run with the hints of its windows, and what they made of these hints as long as there is room."""

    def __init__(self, room: int = KEPT_BYTES):
        self.room = room
        self._lock = threading.Lock()  # windows on several devices ask at once
        self._kept: OrderedDict[tuple, tuple[Any, Any]] = OrderedDict()

    @contextlib.contextmanager
    def of_window(self, conds: Sequence[list | None], window: Window) -> Iterator[list]:
        """Conds whose controls have the hints of a window; two that share a control share its copy."""
        relinked: list[tuple[Any, Any]] = []
        try:
            with self._lock:
                found = [None if group is None else [self._cond(c, window, relinked) for c in group] for group in conds]
            yield found
        finally:
            for control, previous in relinked:
                control.previous_controlnet = previous
            with self._lock:
                self._forget()

    def clear(self) -> None:
        self._kept.clear()

    def _cond(self, cond: dict, window: Window, relinked: list) -> dict:
        if cond.get("control") is None:
            return cond
        return {**cond, "control": self._control(cond["control"], window, relinked)}

    def _control(self, control: Any, window: Window, relinked: list) -> Any:
        if control is None or any(control is linked for linked, _ in relinked):
            return control
        key = (id(control), window.key)
        if not follows_frames(control) and key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][1]
        previous = self._control(control.previous_controlnet, window, relinked)
        if follows_frames(control):
            # Its methods may be bound to it, so that it cannot be copied.
            if previous is not control.previous_controlnet:
                relinked.append((control, control.previous_controlnet))
                control.previous_controlnet = previous
            return control
        made = _copied(control, window)
        made.previous_controlnet = previous
        clones = getattr(control, "multigpu_clones", None)
        if clones:
            made.multigpu_clones = {d: self._control(clone, window, relinked) for d, clone in clones.items()}
        self._kept[key] = (control, made)  # held too, so that no other one gets its id
        return made

    def _forget(self) -> None:
        sizes = {key: _bytes_of(made) for key, (_, made) in self._kept.items()}
        total = sum(sizes.values())
        while self._kept and total > self.room:
            key, _ = self._kept.popitem(last=False)
            total -= sizes[key]


class Window:
    """Which hints a window takes.

    Args:
        indices: frames of a clip in a window.
        frames: of a clip.
        rows: of the batch, where it holds several clips of other hints.
    """

    def __init__(self, indices: Sequence[int], frames: int, rows: Sequence[int] | None = None):
        self.indices, self.frames = list(indices), frames
        self.rows = self.indices if rows is None else list(rows)
        self.key = (tuple(self.rows), frames)

    def of(self, hint: Tensor) -> Tensor:
        if len(hint) == 1:
            return hint
        return hint[self.indices if len(hint) == self.frames else self.rows]


def _copied(control: Any, window: Window) -> Any:
    """A control as it stands in its run, without what it made of the hints of the whole clip."""
    made = copy.copy(control)  # not its own `copy`, which forgets what was prepared for the run
    made.cond_hint = None
    if made.cond_hint_original is not None:
        made.cond_hint_original = window.of(made.cond_hint_original)
    if getattr(made, "extra_concat_orig", None):
        made.extra_concat_orig = [window.of(extra) for extra in made.extra_concat_orig]
    return made


def _bytes_of(control: Any) -> int:
    found = [*_hints(control), control.cond_hint]
    for stages in (getattr(control, "control_input", None) or {}).values():
        found += stages
    return sum(tensor.nbytes for tensor in found if isinstance(tensor, Tensor))
