"""What is computed in each step of a run, and what is kept from an earlier one."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from ...values import quoted

ORDERS = (0, 1)
COMPUTED, KEPT, OFF = "computed", "kept", "off"
"""What guidance does in a step."""
MOST_INTERVAL = 1000


@dataclass(frozen=True)
class Step:
    """What one step computes.

    Attributes:
        number: from 0.
        full: all layers are computed, not the last ones alone.
        guidance: ``computed`` from both prompts, from the ``kept`` difference of an earlier step, or ``off``: the
            prompt alone, as with a scale of 1.
        renews: whether nothing of an earlier step is used in it.
    """

    number: int
    full: bool
    guidance: str

    @property
    def renews(self) -> bool:
        return self.full and self.guidance != KEPT


PLAIN = Step(0, True, COMPUTED)
"""A step without a cache."""


@dataclass(frozen=True)
class StepCache:
    """Fewer full steps: what changes little from step to step is computed in some of them only.

    Two things are kept. The deep part of the network, all but the last up block, as DeepCache does (Ma et al., 2023,
    https://arxiv.org/abs/2312.00858); and the difference that guidance makes, so that the unconditional half of a step
    is left out, as FasterCache does (Lv et al., 2024, https://arxiv.org/abs/2410.19355). Guidance may also be given in
    a part of the steps alone (Kynkäänniemi et al., 2024, https://arxiv.org/abs/2404.07724).

    Args:
        interval: steps from one full one to the next; 1: all are full.
        layers: of the last up block, from its end, that each step computes; 0: the whole block.
        guidance_interval: steps from one with both halves to the next; 1: all have both.
        guidance_start, guidance_end: shares of the steps, between which there is guidance; outside of them the scale
            is 1 and the unconditional half is left out.
        first, last: shares of the steps at the beginning and the end of a run that keep nothing from others.
        order: 0 keeps what was computed last; 1 goes on in a straight line from the last two (Liu et al., 2025,
            https://arxiv.org/abs/2503.06923), which holds twice the memory.
        memory: GiB that may be held; what is beyond it is computed in each step.

    Raises:
        ValueError: a value out of its range.
    """

    interval: int = 1
    layers: int = 0
    guidance_interval: int = 1
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    first: float = 0.15
    last: float = 0.10
    order: int = 1
    memory: float = 4.0

    def __post_init__(self) -> None:
        for name, least in (("interval", 1), ("layers", 0), ("guidance_interval", 1)):
            self._check(name, Integral, f"a whole number of {least} to {MOST_INTERVAL}", least, MOST_INTERVAL)
        for name in ("guidance_start", "guidance_end", "first", "last"):
            self._check(name, Real, "0 to 1", 0, 1)
        self._check("order", Integral, "0 or 1", *ORDERS)
        self._check("memory", Real, "GiB of 0 or more", 0, sys.float_info.max)
        if self.guidance_start >= self.guidance_end:
            raise ValueError(
                f"`guidance_start` of the step cache is {self.guidance_start:g}, expected less than `guidance_end` "
                f"{self.guidance_end:g}."
            )

    def _check(self, name: str, kind: Any, expected: str, least: float, most: float) -> None:
        """Keep a setting as Python's own number, or raise a ValueError that says what was expected."""
        value: Any = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
            raise ValueError(f"`{name}` of the step cache is {quoted(value)}, expected {expected}.")
        object.__setattr__(self, name, int(value) if kind is Integral else float(value))

    @property
    def reach(self) -> int:
        """Steps in which what was computed may be used at most, its own among them."""
        return max(self.interval, self.guidance_interval)

    @property
    def is_idle(self) -> bool:
        """Whether each step computes everything."""
        return self.interval == 1 and not self.leaves_halves_out

    @property
    def leaves_halves_out(self) -> bool:
        """Whether there are steps without their unconditional half, where guidance has one."""
        return self.guidance_interval > 1 or self.guidance_start > 0 or self.guidance_end < 1

    def step(self, number: int, steps: int) -> Step:
        """What a step of a run of so many computes."""
        first, last = max(1, math.ceil(self.first * steps - 1e-9)), math.ceil(self.last * steps - 1e-9)
        behind = number - (first - 1)
        whole = behind <= 0 or number >= steps - last
        guidance = COMPUTED if whole or behind % self.guidance_interval == 0 else KEPT
        # The steps are the middles of equal shares, so that halves of a run have half of them.
        if not self.guidance_start <= (number + 0.5) / steps <= self.guidance_end:
            guidance = OFF
        return Step(number, whole or behind % self.interval == 0, guidance)

    def held(self, number: int, steps: int) -> int:
        """The last step up to this one that renews all: windows stay as they are in it, as what is kept is theirs."""
        if not self.memory:  # nothing is kept
            return number
        return next((n for n in range(number, -1, -1) if self.step(n, steps).renews), number)

    @classmethod
    def parse(cls, text: str) -> StepCache:
        """The name of a preset, settings such as ``interval=3,layers=1``, or a name with settings behind it.

        Raises:
            ValueError: neither, with the names.
        """
        name, *rest = (part.strip() for part in text.split(","))
        changes = rest if name in PRESETS else [name, *rest]
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        given: dict[str, Any] = {}
        try:
            for change in changes:
                key, _, value = (part.strip() for part in change.partition("="))
                if key in given:
                    raise ValueError
                given[key] = kinds[key](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"the step cache is {quoted(text)}, expected {', '.join(PRESETS)} or settings such as "
                f"interval=3,layers=1, each once; settings are {', '.join(kinds)}"
            ) from None
        return replace(PRESETS.get(name, cls()), **given)

    def to_json(self) -> dict[str, Any]:
        """All settings by name."""
        return asdict(self)


PRESETS = {
    "careful": StepCache(interval=2, layers=1, guidance_interval=2),
    "balanced": StepCache(interval=3, layers=1, guidance_interval=3),
    "fast": StepCache(interval=4, layers=1, guidance_interval=4),
}
"""Name -> settings; what they give is in docs/step-cache.md."""


def chosen_cache(chosen: Any) -> StepCache:
    """Settings, or those of a preset's name or a text.

    Raises:
        ValueError: neither.
    """
    if isinstance(chosen, str):
        return StepCache.parse(chosen)
    if not isinstance(chosen, StepCache):
        raise ValueError(f"`step_cache` is {quoted(chosen)}, expected a StepCache or the name of a preset.")
    return chosen
