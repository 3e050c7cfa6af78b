"""Motion LoRAs whose strength is data of a call: per frame, per clip, and another in every step.

Beside W x the layer's call computes up @ (strength * (down @ x)), tokens being (B, F, P, C); no weight is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..ops.linear.low_rank import low_rank
from ..values import is_finite, quoted


@dataclass(frozen=True, eq=False)
class MotionLora:
    """A LoRA of motion layers for :class:`ForwardOptions`.

    Args:
        name: of the file, for errors.
        layers: path in the UNet -> (down (R, in), up (out, R)), any float dtype, moved to the call's device as needed.
        strength: 0 is nothing, 1 as trained; a number, or a tensor of one, of (F,) or of (B, F) numbers.
    """

    name: str
    layers: Mapping[str, tuple[Tensor, Tensor]]
    strength: float | Tensor = 1.0
    _placed: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.strength, Tensor) and not is_finite(self.strength):
            found = quoted(self.strength)
            raise ValueError(f"{self.name}: `strength` is {found}, expected a finite number or a tensor.")

    def at(self, strength: float | Sequence[float] | Tensor) -> MotionLora:
        """This LoRA at another strength; a sequence is one number per frame."""
        if not isinstance(strength, (int, float, Tensor)):
            strength = torch.tensor(strength, dtype=torch.float32)
        return replace(self, strength=strength)

    def placed(self, like: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The layers on the device and in the dtype of a tensor, moved once for all calls there.

        Layers that are trained are left where they are: what is computed from them must lead back to them.
        """
        key = (like.device, like.dtype)
        fits = all((d.device, d.dtype) == key or d.requires_grad for d, _ in self.layers.values())
        if fits or torch.compiler.is_compiling():
            return self.layers
        if key not in self._placed:
            self._placed.clear()
            self._placed[key] = {path: (down.to(like), up.to(like)) for path, (down, up) in self.layers.items()}
        return self._placed[key]


class LowRank:
    """What motion LoRAs add to the layers of one call."""

    def __init__(self, terms: Mapping[nn.Module, Sequence[tuple[Tensor, Tensor, float | Tensor]]]):
        self.terms = terms

    def add(self, layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
        """``out`` (B, F, P, D) of a layer with its changes for the input x (B, F, P, C).

        After :meth:`flat` both are (N, C).
        """
        for down, up, strength in self.terms.get(layer, ()):
            out = out + low_rank(x, down, up, strength)
        return out

    def part(self, dim: int, start: int, stop: int) -> LowRank:
        """The changes for a part of the tokens along one of their axes."""
        return self._with(lambda s: s.narrow(dim, start, stop - start) if s.shape[dim] > 1 else s)

    def of_frames(self, index: Tensor) -> LowRank:
        """The changes for some frames, by their numbers (L,)."""
        return self._with(lambda s: s.index_select(1, index) if s.shape[1] > 1 else s)

    def flat(self, shape: tuple[int, ...]) -> LowRank:
        """The changes for tokens of a shape (B, F, P, C) as (B*F*P, C)."""
        return self._with(lambda s: s.expand(*shape[:3], 1).reshape(-1, 1))

    def of(self, *layers: nn.Module) -> LowRank | None:
        """The changes of these layers, or None where they have none."""
        theirs = {layer: self.terms[layer] for layer in layers if layer in self.terms}
        return LowRank(theirs) if theirs else None

    def _with(self, change: Callable[[Tensor], Tensor]) -> LowRank:
        def changed(strength: float | Tensor) -> float | Tensor:
            return change(strength) if isinstance(strength, Tensor) else strength

        return LowRank({m: [(down, up, changed(s)) for down, up, s in terms] for m, terms in self.terms.items()})


def lora_terms(
    loras: Iterable[MotionLora], batch: int, frames: int, layer_at: Callable[[str], nn.Module | None], like: Tensor
) -> LowRank | None:
    """The changes of one call, or None without LoRAs.

    Args:
        batch, frames: B and F.
        layer_at: gives the UNet's motion layer at a path, or None.
        like: on the device and in the dtype of the call.

    Raises:
        ValueError: a strength of another shape, or a layer that the UNet lacks.
    """
    terms: dict[nn.Module, list] = {}
    for lora in loras:
        strength = _per_frame(lora, batch, frames, like)
        if not isinstance(strength, Tensor) and strength == 0:
            continue
        for path, (down, up) in lora.placed(like).items():
            layer = layer_at(path)
            if layer is None:
                raise ValueError(f"{lora.name}: changes {path}, which is no motion layer of this UNet.")
            terms.setdefault(layer, []).append((down, up, strength))
    return LowRank(terms) if terms else None


def _per_frame(lora: MotionLora, batch: int, frames: int, like: Tensor) -> float | Tensor:
    strength = lora.strength
    if not isinstance(strength, Tensor):
        return strength
    shape = strength.shape  # compared by ==, not by `in`: under torch.compile sizes may be symbols
    per_frame = len(shape) == 1 and shape[0] == frames
    per_clip = len(shape) == 2 and shape[0] == batch and shape[1] == frames
    if strength.numel() != 1 and not per_frame and not per_clip:
        raise ValueError(
            f"{lora.name}: `strength` has shape {tuple(shape)}, expected one number, ({frames},) for the "
            f"frames or ({batch}, {frames}) for the frames of each clip."
        )
    # Not in half precision, where 0.3 is 0.2998: only the product is rounded.
    strength = strength.to(like.device, torch.promote_types(like.dtype, torch.float32))
    return strength.reshape(-1, 1 if strength.numel() == 1 else frames, 1, 1)
