"""Motion LoRAs whose strength changes over the steps or the frames, in a MODEL's settings and in a call of the UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ....unet_motion.forward.lora import MotionLora
from .varying import Varying, at_step, frame_indices


@dataclass(frozen=True, eq=False)
class VaryingLora:
    """A motion LoRA and its strength, as a setting of a MODEL.

    Attributes:
        layers: path in the core -> (down, up).
    """

    name: str
    layers: Mapping[str, tuple[Tensor, Tensor]]
    strength: Varying
    _placed: dict = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict) -> VaryingLora:
        # ComfyUI copies the settings on every clone; nothing here changes.
        return self

    def for_batch(self, x: Tensor, frames: int, transformer_options: dict) -> dict[str, Any]:
        """What one call needs, on the device of x: strength as (clips of all conds, frames), without the steps."""
        indices, total = frame_indices(x, frames, transformer_options)
        strength = self.strength.over_frames(indices, total)
        rows = strength.repeat(x.shape[0] // len(indices)).view(-1, frames)
        layers = self._placed.get(x.device)
        if layers is None:
            # Moved once, for the device that is in use; another one may compute at the same time.
            layers = {path: [t.to(x.device) for t in pair] for path, pair in self.layers.items()}
            self._placed.clear()
            self._placed[x.device] = layers
        return {
            "name": self.name,
            "layers": layers,
            "strength": rows.to(x.device),
            "steps": self.strength.step_pieces(x.device),
        }


def for_batch(loras: list, x: Tensor, frames: int, transformer_options: dict) -> list[dict[str, Any]]:
    """See :meth:`VaryingLora.for_batch`; what was made for this call before stays."""
    return [lora.for_batch(x, frames, transformer_options) if isinstance(lora, VaryingLora) else lora for lora in loras]


def motion_loras(loras: list[dict[str, Any]], timesteps: Tensor) -> list[MotionLora]:
    """The core's motion LoRAs of a call at timesteps (clips * frames,) or (1,), where 999 begins the sampling."""
    found = []
    for lora in loras:
        layers = {path: (down, up) for path, (down, up) in lora["layers"].items()}
        found.append(MotionLora(lora["name"], layers, at_step(lora["strength"], lora["steps"], timesteps)))
    return found
