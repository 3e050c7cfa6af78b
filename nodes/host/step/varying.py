"""Numbers of a MODEL's settings that change over the frames of the animation and over the steps of the sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....unet_motion.schedule import Curve, Pieces

LAST_TIMESTEP = 999


@dataclass(frozen=True)
class Varying:
    """A number times curves.

    Attributes:
        frames, steps: curves over the animation's frames, and over the share of the sampling.
    """

    number: float = 1.0
    frames: tuple[Curve, ...] = ()
    steps: tuple[Curve, ...] = ()

    def __deepcopy__(self, memo: dict) -> Varying:
        # ComfyUI copies the settings on every clone; nothing here changes.
        return self

    @classmethod
    def of(cls, number: float, curves: Sequence[Curve]) -> Varying:
        """A number times curves over anything; those that are one number are taken into it."""
        for curve in curves:
            if curve.is_constant:
                number *= curve.keys[0].value
        rest = [curve for curve in curves if not curve.is_constant]
        return cls(number, *(tuple(c for c in rest if c.over == over) for over in ("frames", "steps")))

    def times(self, other: Varying) -> Varying:
        """The product of both."""
        return Varying(self.number * other.number, self.frames + other.frames, self.steps + other.steps)

    @property
    def is_constant(self) -> bool:
        return not self.frames and not self.steps

    def over_frames(self, indices: Sequence[int], total: int) -> Tensor:
        """The numbers at some of ``total`` frames without the steps, float32 (len(indices),) on the CPU.

        Raises:
            ValueError: a curve has keys that the animation has no frames for.
        """
        values = torch.full((total,), self.number, dtype=torch.float64)
        for curve in self.frames:
            values = values * curve.values(total)
        return values[list(indices)].float()

    def step_pieces(self, device: torch.device) -> list[list[Tensor]]:
        """The curves over the steps as plain tensors on a device, for :func:`at_step`."""
        pieces = (curve.pieces().to(device, torch.float32) for curve in self.steps)
        return [[p.places, p.factors] for p in pieces]


def at_step(values: Any, steps: Sequence[Sequence[Tensor]], timesteps: Tensor) -> Any:
    """Values (clips, frames), or a number where there are no steps, times curves at a call's timesteps.

    Args:
        timesteps: (clips * frames,) or (1,), where 999 begins the sampling.
    """
    for places, factors in steps:
        found = Pieces(places, factors).at(1 - timesteps.flatten().float() / LAST_TIMESTEP)
        values = values * found.expand(values.numel()).view_as(values)
    return values


def frame_indices(x: Tensor, frames: int, transformer_options: dict) -> tuple[list[int], int]:
    """Which frames of the animation are in a call of x (conds * clips * frames, ...), and how many it has.

    Raises:
        ValueError: the batch is not made of a window's frames.
    """
    animation = transformer_options.get("ad_params") or {}
    window = transformer_options.get("context_window")
    indices = animation.get("sub_idxs")
    if indices is None:
        indices = frames_of_window(window)
    if indices is None:
        return list(range(frames)), frames
    indices = list(indices)
    if x.shape[0] % len(indices):
        raise ValueError(f"a batch of {x.shape[0]} frames is not made of the {len(indices)} frames of its window.")
    total = getattr(window, "total_frames", None) or animation.get("full_length") or 0
    return indices, max(total, max(indices) + 1)


def frames_of_window(window: Any) -> list[int] | None:
    """The frames of one of ComfyUI's context windows, with the one that it may put in front of them."""
    indices = getattr(window, "index_list", None)
    if indices is None:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    return [*([] if anchor is None or anchor < 0 else [anchor]), *(int(index) for index in indices)]
