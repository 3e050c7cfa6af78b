"""FreeInit (Wu et al., 2023, https://arxiv.org/abs/2312.07537): sampling again from noise that knows the last result.

A model is trained on noised clips, whose low frequencies still show the clip at the highest noise level; pure noise
shows nothing there that belongs together, and clips flicker. So each run's result is noised to the last timestep with
the noise that it began with, and the next run begins with the low frequencies of that and the high ones of fresh
noise (section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..values import quoted
from .noise import seed_apart

RUNS_APART = 1 << 16
"""Between the numbers of `seed_apart` of two runs: more than there are kinds in a mix of noise."""

FILTERS = ("gaussian", "butterworth", "ideal", "box")


@dataclass(frozen=True)
class FreeInit:
    """How often a clip is sampled, and which frequencies of a run's result the next run begins with.

    Frequencies are shares of the highest one, 0 to 1 along each axis; the distance D of a frequency is in units of
    the stop frequencies.

    Args:
        iterations: runs in all; the first one is the usual run, so that 1 changes nothing.
        filter: gain of the low frequencies. ``gaussian``: exp(-D**2 / 2). ``butterworth``: 1 / (1 + D**(2 order)).
            ``ideal``: 1 up to D = 1, else 0. ``box``: 1 where each axis is at most at its stop frequency, else 0.
        spatial_stop, temporal_stop: stop frequencies, above 0 and at most 1; less keeps less of the result.
        order: of ``butterworth``; more is steeper.
        fast: fewer steps in the earlier runs (the paper's coarse-to-fine sampling): run k of K takes k / K of them.

    Raises:
        ValueError: a setting is outside these rules.
    """

    iterations: int = 3
    filter: str = "butterworth"
    spatial_stop: float = 0.25
    temporal_stop: float = 0.25
    order: int = 4
    fast: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "order"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {quoted(value)}, expected a whole number of at least 1.")
        if self.filter not in FILTERS:
            raise ValueError(f"`filter` is {quoted(self.filter)}, expected one of {', '.join(FILTERS)}.")
        for name in ("spatial_stop", "temporal_stop"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {quoted(getattr(self, name))}, expected more than 0 and at most 1.")

    def steps(self, iteration: int, steps: int) -> int:
        """Steps of a run, numbered from 0, where a whole run has ``steps``."""
        return max(1, steps * (iteration + 1) // self.iterations) if self.fast else steps

    def seed(self, iteration: int, seed: int) -> int:
        """The seed of the fresh noise that a run after the first one begins with."""
        return seed_apart(seed, iteration * RUNS_APART)

    def gains(self, frames: int, height: int, width: int, device: torch.device | str | None = None) -> Tensor:
        """Gain of each frequency that `torch.fft.rfftn` gives for (frames, height, width), float32."""
        stops = (self.temporal_stop, self.spatial_stop, self.spatial_stop)
        axes = (torch.fft.fftfreq(frames), torch.fft.fftfreq(height), torch.fft.rfftfreq(width))
        # fftfreq counts turns a frame or pixel, of which half a turn is the most.
        shares = [(axis.double() * 2 / stop) ** 2 for axis, stop in zip(axes, stops, strict=True)]
        squares = torch.meshgrid(*shares, indexing="ij")
        total = squares[0] + squares[1] + squares[2]
        if self.filter == "gaussian":
            gains = torch.exp(-total / 2)
        elif self.filter == "butterworth":
            gains = 1 / (1 + total**self.order)
        else:
            inside = total if self.filter == "ideal" else torch.stack(squares).amax(0)
            gains = inside <= 1 + 1e-6  # frequencies that are just at the stop belong to it
        return gains.to(device, torch.float32)

    def mixed(self, low: Tensor, high: Tensor) -> Tensor:
        """The low frequencies of one clip and the high ones of another, both (F, C, h, w); float32 or wider."""
        dtype = torch.promote_types(high.dtype, torch.float32)
        high = high.to(dtype)
        axes, (frames, _, height, width) = (0, 2, 3), high.shape
        gains = self.gains(frames, height, width, high.device)[:, None]
        # The high frequencies' gains are 1 less those of the low ones, so that one transform does.
        change = torch.fft.rfftn(low.to(dtype) - high, dim=axes) * gains
        return high + torch.fft.irfftn(change, s=(frames, height, width), dim=axes)

    def renewed(
        self, result: Tensor, first: Tensor, fresh: Tensor, alpha: float, sigma: float, given: Tensor | None = None
    ) -> Tensor:
        """The noise that the next run begins with.

        Without ``given`` it is the run's first state itself, as where a clip is made of noise alone. With it the run
        begins at ``alpha * given + sigma * noise``, in the middle of the schedule: then that state, not its noise, has
        the low frequencies of the result noised to this level, and the level of noise stays what the model expects.

        Args:
            result: of the last run, (F, C, h, w).
            first: the noise of the first run.
            fresh: noise that no run had.
            alpha, sigma: share of the clip and of the noise at the level where the run begins; without ``given`` at
                the schedule's last timestep.
            given: the clip that the run begins with, unnoised.
        """
        noised = alpha * result.to(first) + sigma * first
        if given is not None:
            if not sigma > 0 or not math.isfinite(alpha / sigma):
                raise ValueError(f"a run begins with {sigma} of noise, expected more than 0")
            noised = (noised - alpha * given.to(first)) / sigma
        return self.mixed(noised, fresh)
