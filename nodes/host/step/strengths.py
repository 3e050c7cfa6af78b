"""Motion LoRAs whose strength changes over the steps or the frames, in a MODEL's settings and in a call of the UNet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....unet_motion.forward.lora import MotionLora

LAST_TIMESTEP = 999


def parse_curve(name: str, text: str, last: float = math.inf) -> list[tuple[float, float]]:
    """Places and strengths of a text such as "0:1, 0.5:0.3"; none for an empty one.

    Args:
        name: of the input, for errors.
        last: the largest place; without one places are numbers of frames.

    Raises:
        ValueError: anything else, places that go back, or more than two entries at one place.
    """
    whole = last == math.inf
    example = "0:0, 15:1" if whole else "0:1, 0.5:0.3"
    points = []
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        try:
            place, strength = (float(number) for number in part.split(":"))
        except ValueError:
            place = strength = math.nan
        if not (0 <= place <= last and math.isfinite(place) and math.isfinite(strength)) or whole and place % 1:
            kind = "numbers of frames, from 0," if whole else f"shares of the sampling from 0 to {last:g}"
            raise ValueError(
                f"`{name}` has {part.strip()!r}, expected {kind} with a strength behind a colon, such as {example}."
            )
        points.append((place, strength))
    places = [place for place, _ in points]
    if places != sorted(places) or any(places.count(place) > 2 for place in places):
        raise ValueError(f"`{name}` is {text!r}, expected places that rise; two entries at one place are a jump.")
    return points


def curve_at(points: Tensor, places: Tensor) -> Tensor:
    """Strengths (N,) at places (N,) of a curve (K, 2): linear between its points, level before and behind them.

    Data of the graph throughout: reading a place would wait for the device.
    """
    known, strengths = points[:, 0].contiguous(), points[:, 1]
    right = torch.bucketize(places.to(known), known, right=True)
    left, right = (right - 1).clamp_min(0), right.clamp_max(len(known) - 1)
    width = known[right] - known[left]
    share = torch.where(width > 0, (places.to(known) - known[left]) / width.clamp_min(1e-12), 0)
    return strengths[left] + share * (strengths[right] - strengths[left])


@dataclass(frozen=True, eq=False)
class VaryingLora:
    """A motion LoRA and its strength, as a setting of a MODEL.

    Attributes:
        layers: path in the core -> (down, up).
        strength: multiplies the curves.
        steps, frames: curves over the share of the sampling and over the animation's frames, (K, 2) or None.
    """

    name: str
    layers: Mapping[str, tuple[Tensor, Tensor]]
    strength: float
    steps: Tensor | None
    frames: Tensor | None
    _placed: dict = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict) -> VaryingLora:
        # ComfyUI copies the settings on every clone; nothing here changes.
        return self

    def for_batch(self, x: Tensor, frames: int, transformer_options: dict) -> dict[str, Any]:
        """What one call needs, on the device of x: strength as (clips of all conds, frames), without the steps."""
        indices = _frame_indices(transformer_options) or range(frames)
        if x.shape[0] % len(indices):
            raise ValueError(f"a batch of {x.shape[0]} frames is not made of the {len(indices)} frames of its window.")
        strength = torch.full((len(indices),), self.strength)
        if self.frames is not None:
            strength = strength * curve_at(self.frames, torch.tensor(indices, dtype=torch.float32))
        rows = strength.repeat(x.shape[0] // len(indices)).view(-1, frames)
        layers = self._placed.get(x.device)
        if layers is None:
            # Moved once, for the device that is in use; another one may compute at the same time.
            layers = {path: [t.to(x.device) for t in pair] for path, pair in self.layers.items()}
            self._placed.clear()
            self._placed[x.device] = layers
        steps = None if self.steps is None else self.steps.to(x.device)
        return {"name": self.name, "layers": layers, "strength": rows.to(x.device), "steps": steps}


def _frame_indices(transformer_options: dict) -> list[int] | None:
    """Which frames of the animation are in a call, where it is a window."""
    indices = (transformer_options.get("ad_params") or {}).get("sub_idxs")
    return frames_of_window(transformer_options.get("context_window")) if indices is None else list(indices)


def frames_of_window(window: Any) -> list[int] | None:
    """The frames of one of ComfyUI's context windows, with the one that it may put in front of them."""
    indices = getattr(window, "index_list", None)
    if indices is None:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    return [*([] if anchor is None or anchor < 0 else [anchor]), *(int(index) for index in indices)]


def for_batch(loras: list, x: Tensor, frames: int, transformer_options: dict) -> list[dict[str, Any]]:
    """See :meth:`VaryingLora.for_batch`; what was made for this call before stays."""
    return [lora.for_batch(x, frames, transformer_options) if isinstance(lora, VaryingLora) else lora for lora in loras]


def motion_loras(loras: list[dict[str, Any]], timesteps: Tensor) -> list[MotionLora]:
    """The core's motion LoRAs of a call at timesteps (clips * frames,) or (1,), where 999 begins the sampling."""
    found = []
    for lora in loras:
        strength = lora["strength"]
        if lora["steps"] is not None:
            share = 1 - timesteps.flatten().float() / LAST_TIMESTEP
            strength = strength * curve_at(lora["steps"], share).expand(strength.numel()).view_as(strength)
        layers = {path: (down, up) for path, (down, up) in lora["layers"].items()}
        found.append(MotionLora(lora["name"], layers, strength))
    return found
