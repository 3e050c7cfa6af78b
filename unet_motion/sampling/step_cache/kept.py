"""What steps of a run computed, for the steps after them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


class Kept:
    """Tensors by key, each with the step that computed it; with order 1 the one before it too.

    Args:
        order: see :class:`StepCache`.
        room: bytes that all together may take.

    Attributes:
        bytes, most_bytes: held now, and at most so far.
    """

    def __init__(self, order: int, room: float) -> None:
        self.order, self.room = order, room
        self.bytes = self.most_bytes = 0
        self._held: dict[Hashable, list[tuple[int, Tensor]]] = {}
        self._lock = threading.Lock()  # windows may be computed on several devices at a time

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self.bytes = 0

    def forget(self, before: int) -> None:
        """Let go of what no step from ``before`` on has computed."""
        with self._lock:
            for key in [key for key, values in self._held.items() if values[-1][0] < before]:
                self._drop(key)

    def put(self, key: Hashable, step: int, value: Tensor) -> bool:
        """Keep a step's tensor; False where there is no room for it."""
        with self._lock:
            before = [pair for pair in self._held.get(key, ()) if pair[0] < step and pair[1].shape == value.shape]
            self._drop(key)
            values = [*before[len(before) - self.order :], (step, value)] if self.order else [(step, value)]
            while values and self.bytes + _bytes(values) > self.room:
                values.pop(0)
            if values:
                self._held[key] = values
                self.bytes += _bytes(values)
                self.most_bytes = max(self.most_bytes, self.bytes)
            return bool(values)

    def get(self, key: Hashable, step: int, reach: int) -> Tensor | None:
        """The tensor for a step, or None where none was computed in it or in ``reach`` - 1 steps before."""
        with self._lock:
            values = self._held.get(key, ())
        if not values or not 0 <= step - values[-1][0] < reach:
            return None
        (before, old), (newest, new) = values[0], values[-1]
        if before == newest or step == newest:
            return new
        return torch.lerp(old, new, (step - before) / (newest - before))

    def get_rows(self, keys: Sequence[Hashable], step: int, reach: int) -> Tensor | None:
        """The tensors of several keys one after the other, or None where any is missing."""
        found = [self.get(key, step, reach) for key in keys]
        rows = [tensor for tensor in found if tensor is not None]
        if len(rows) < len(found):
            return None
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _drop(self, key: Hashable) -> None:
        self.bytes -= _bytes(self._held.pop(key, []))


def _bytes(values: Sequence[tuple[int, Tensor]]) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in values)
