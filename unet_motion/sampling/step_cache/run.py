"""A run with a step cache: where it is, what it holds, what it skipped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .kept import Kept
from .settings import PLAIN, Step, StepCache


@dataclass
class StepReport:
    """What a run skipped, in calls of the network: one a step, and one a window and half where those go alone.

    Attributes:
        full: calls through all layers.
        shallow: calls of the last layers alone.
        halves_kept: unconditional halves left out for the difference of an earlier step.
        halves_off: unconditional halves left out where there is no guidance.
        not_held: results that there was no room for.
        most_bytes: held at most.
    """

    full: int = 0
    shallow: int = 0
    halves_kept: int = 0
    halves_off: int = 0
    not_held: int = 0
    most_bytes: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, name: str) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)

    def to_json(self) -> dict[str, int]:
        """All counts by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if not name.startswith("_")}

    @classmethod
    def of(cls, reports: Sequence[StepReport]) -> StepReport:
        """What several runs skipped, one after the other."""
        rows = [report.to_json() for report in reports]
        most = max(row.pop("most_bytes") for row in rows)
        return cls(**{name: sum(row[name] for row in rows) for name in rows[0]}, most_bytes=most)

    def __str__(self) -> str:
        said = [f"{self.full} of {self.full + self.shallow} calls of the network were full"]
        if self.shallow:
            said.append(f"{self.shallow} of the last layers alone")
        if self.halves_kept or self.halves_off:
            said.append(
                f"the unconditional half was left out of {self.halves_kept + self.halves_off}"
                + (f" ({self.halves_off} without guidance)" if self.halves_off else "")
            )
        if self.not_held:
            said.append(f"for {self.not_held} results there was no room")
        return ", ".join(said) + f"; held at most {self.most_bytes / 2**20:.1f} MiB"


class RunCache:
    """The state of one run; another run begins with :meth:`begin`.

    Attributes:
        report: over all runs since this was made.
        now: what the present step computes.
    """

    def __init__(self, settings: StepCache) -> None:
        self.settings = settings
        self.report = StepReport()
        self._room = settings.memory * 2**30
        self.begin(1)

    def begin(self, steps: int) -> Callable[[int], int]:
        """Forget everything: a run of so many steps begins. Returns :meth:`StepCache.held` for its steps."""
        self.steps = steps
        self.deep = Kept(self.settings.order, self._room)
        self.guidance = Kept(self.settings.order, self._room)
        self.now: Step = PLAIN
        return self.held

    def held(self, number: int) -> int:
        """See :meth:`StepCache.held`."""
        return self.settings.held(number, self.steps)

    def clear(self) -> None:
        """Forget what is kept, in the middle of a run: the latents are others now."""
        self.deep.clear()
        self.guidance.clear()

    def go_to(self, number: int) -> Step:
        """The present step is the ``number``-th."""
        if number != self.now.number:
            # What is as old as an interval is still what the next one's line goes on from.
            self.deep.forget(number - self.settings.interval)
            self.guidance.forget(number - self.settings.guidance_interval)
        self.now = self.settings.step(number, self.steps)
        return self.now

    def compute(
        self, keys: Sequence[Hashable], full: Callable[[], tuple[Tensor, Tensor]], shallow: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The network's result, from all layers or from the last ones alone.

        Args:
            keys: what each of the batch's equal parts is; what one computed is used for none of another key.
            full: -> the result and the deep part's.
            shallow: the deep part's result -> the result.
        """
        step, interval = self.now, self.settings.interval
        deep = None if step.full else self.deep.get_rows(keys, step.number, interval)
        self.report.count("full" if deep is None else "shallow")
        if deep is not None:
            return shallow(deep)
        out, deep = full()
        for key, rows in zip(keys, deep.chunk(len(keys)), strict=True):
            self._put(self.deep, key, rows)
        return out

    def keep_difference(self, key: Hashable, difference: Tensor) -> None:
        """Keep what guidance multiplies."""
        if self.settings.guidance_interval > 1:
            self._put(self.guidance, key, difference)

    def kept_difference(self, key: Hashable) -> Tensor | None:
        """What :meth:`keep_difference` was given by an earlier step for this one, or None."""
        return self.guidance.get(key, self.now.number, self.settings.guidance_interval)

    def _put(self, kept: Kept, key: Hashable, value: Tensor) -> None:
        if self.settings.interval == 1 and kept is self.deep:
            return
        kept.room = self._room - (self.guidance if kept is self.deep else self.deep).bytes
        if not kept.put(key, self.now.number, value):
            self.report.count("not_held")
        self.report.most_bytes = max(self.report.most_bytes, self.deep.bytes + self.guidance.bytes)
