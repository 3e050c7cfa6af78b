"""A picture that is laid into a clip while it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from ..values import quoted


@dataclass(frozen=True, eq=False)
class ImageInjection:
    """At a share of the steps the clip so far is decoded, a picture is laid in, and what changed is encoded again.

    "So far" is what the model takes for the finished clip at that step; the noise stays. What the picture does not
    cover stays as it is, as far as the encoder looks at each place alone.

    Args:
        picture: floats from 0 to 1, (H, W, 3) for all frames or (F, H, W, 3).
        at: share of the sampling, 0 its first step; the first step at or behind it. A run that begins behind it, or
            ends before it, is left as it is.
        strength: 0 changes nothing, 1 lays the picture over the clip; a number, or (F,) numbers.
        mask: where the picture counts, from 0 to 1, (h, w), (1, h, w) or (F, h, w); resized to the picture.
        x, y: where the picture's left upper corner lies, in pixels of the clip; it may lie outside.

    Raises:
        ValueError: a tensor of another shape, or a number that is not finite or out of its range.
    """

    picture: Tensor
    at: float = 0.3
    strength: float | Tensor = 1.0
    mask: Tensor | None = None
    x: int = 0
    y: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        picture = self.picture[None] if self.picture.dim() == 3 else self.picture
        if picture.dim() != 4 or picture.shape[-1] != 3 or not picture.numel() or not picture.isfinite().all():
            shape = tuple(self.picture.shape)
            raise ValueError(f"`picture` has shape {shape}, expected (frames, height, width, 3), all finite.")
        object.__setattr__(self, "picture", picture.float())
        if not 0 <= self.at <= 1:
            raise ValueError(f"`at` is {quoted(self.at)}, expected 0 to 1.")
        strength = torch.as_tensor(self.strength, dtype=torch.float32)
        if strength.dim() > 1 or not strength.isfinite().all():
            raise ValueError(
                f"`strength` is {quoted(self.strength)}, expected one finite number or one for each frame."
            )
        object.__setattr__(self, "strength", strength)
        if self.mask is None:
            return
        mask = self.mask[None] if self.mask.dim() == 2 else self.mask
        if mask.dim() != 3 or not mask.numel() or not mask.isfinite().all():
            shape = tuple(self.mask.shape)
            raise ValueError(f"`mask` has shape {shape}, expected (frames, height, width), all finite.")
        mask = F.interpolate(mask[:, None].float(), size=picture.shape[1:3], mode="bilinear").clamp(0, 1)
        object.__setattr__(self, "mask", mask[:, 0])

    def _check_types(self) -> None:
        for name, value in (("picture", self.picture), ("mask", self.mask)):
            if not (isinstance(value, Tensor) and value.is_floating_point()) and not (name == "mask" and value is None):
                kind = f"tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"`{name}` is a {kind}, expected a tensor of floats from 0 to 1.")
        if isinstance(self.at, bool) or not isinstance(self.at, Real):
            raise ValueError(f"`at` is {quoted(self.at)}, expected a number from 0 to 1.")
        if not isinstance(self.strength, (Real, Tensor)):
            raise ValueError(f"`strength` is {quoted(self.strength)}, expected a number or a tensor of numbers.")

    @property
    def strengths(self) -> Tensor:
        """The strength as a tensor of one number, or (F,)."""
        return torch.as_tensor(self.strength)

    @property
    def is_idle(self) -> bool:
        """Whether it changes nothing."""
        return not self.strengths.any() or (self.mask is not None and not self.mask.any())

    def check(self, frames: int, height: int, width: int) -> None:
        """Raise ValueError for a clip that it does not fit, whose pictures have so many pixels."""
        counts = {"picture": len(self.picture), "strength": self.strengths.numel()}
        if self.mask is not None:
            counts["mask"] = len(self.mask)
        for name, count in counts.items():
            if count not in (1, frames):
                raise ValueError(f"`{name}` is for {count} frames, expected 1 or {frames}, one for each frame.")
        h, w = self.picture.shape[1:3]
        if not (-w < self.x < width and -h < self.y < height):
            raise ValueError(
                f"the picture of {w}x{h} pixels at ({self.x}, {self.y}) lies outside of the clip's {width}x{height}."
            )

    def step(self, shares: Sequence[float]) -> int | None:
        """The number of the step that it comes before, or None.

        Args:
            shares: of the sampling, before each step of a run.
        """
        tolerance = 1e-6
        if not shares or shares[0] > self.at + tolerance:
            return None
        return next((i for i, share in enumerate(shares) if share >= self.at - tolerance), None)

    def laid_in(self, pictures: Tensor) -> Tensor:
        """Pictures (F, 3, H, W) with the picture over them.

        Raises:
            ValueError: see :meth:`check`.
        """
        frames, _, height, width = pictures.shape
        self.check(frames, height, width)
        h, w = self.picture.shape[1:3]
        top, left, bottom, right = max(0, self.y), max(0, self.x), min(height, self.y + h), min(width, self.x + w)
        part = (slice(None), slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x))
        picture = self.picture[part].permute(0, 3, 1, 2).to(pictures)
        weight = self.strengths.reshape(-1, 1, 1, 1).to(pictures)
        if self.mask is not None:
            weight = weight * self.mask[part][:, None].to(pictures)
        made = pictures.clone()
        under = made[:, :, top:bottom, left:right]
        made[:, :, top:bottom, left:right] = under + weight * (picture - under)
        return made

    def injected(self, clip: Tensor, decode: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents (F, C, h, w) of the clip so far with the picture in them.

        Args:
            decode, encode: latents to pictures (F, 3, H, W) from 0 to 1, and back.
        """
        pictures = decode(clip).clamp(0, 1)
        return clip + (encode(self.laid_in(pictures)) - encode(pictures)).to(clip)
