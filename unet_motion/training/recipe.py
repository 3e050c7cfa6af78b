"""Every number of a training run of motion modules or a motion LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..values import quoted

SCHEDULES = ("constant", "linear", "cosine")
FREE = ("save_every", "log_every")
"""Fields that may differ when a run is resumed: they change no weight."""


@dataclass(frozen=True)
class MotionRecipe:
    """How motion modules and LoRAs are trained.

    Attributes:
        steps: of the optimizer.
        batch: clips in a forward pass of each process.
        accumulate: passes whose mean gradient makes a step.
        learning_rate: the highest one.
        optimizer: name of a class in `torch.optim`.
        optimizer_options: more of its arguments as (name, value), such as `("momentum", 0.9)`.
        schedule: after the warm-up `constant`, or `linear` or as a half `cosine` down to nothing at the last step.
        warmup: steps in which the learning rate rises straight from 0.
        weight_decay: of the optimizer, where it has one.
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay of the averaged weights that are written at the end; 0 writes the last ones.
        min_snr, noise_offset, noise_power: see `Objective`.
        drop_prompt: share of the clips that are seen with the empty prompt, which guidance needs.
        checkpointing: compute activations again in the backward pass, for less memory.
        bfloat16: compute in bfloat16; weights, their averages and the optimizer stay in float32.
        seed: of new modules and of all draws.
        save_every: steps between checkpoints.
        log_every: steps between lines on the console; the file has every step.

    Raises:
        ValueError: a number out of its range.
    """

    steps: int = 1000
    batch: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-4
    optimizer: str = "AdamW"
    optimizer_options: tuple[tuple[str, float | bool], ...] = ()
    schedule: str = "cosine"
    warmup: int = 20
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    min_snr: float = 0.0
    noise_offset: float = 0.0
    noise_power: float = 0.0
    drop_prompt: float = 0.1
    checkpointing: bool = False
    bfloat16: bool = False
    seed: int = 0
    save_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every", "log_every"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "more than 0")
        for name in ("warmup", "weight_decay", "clip", "min_snr", "noise_offset", "noise_power"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "at least 0")
        for name in ("ema", "drop_prompt"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        self._check("seed", 0 <= self.seed < 2**64, "0 to 2**64 - 1")
        self._check("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"`{name}` is {quoted(getattr(self, name))}, expected {expected}.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, 0 to steps - 1."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        share = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        if self.schedule == "linear":
            return self.learning_rate * (1 - share)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
