"""Masks that change from frame to frame."""

from __future__ import annotations

from torch import Tensor

from .step.varying import Varying


def mask_over_frames(mask: Tensor, frames: int, strength: Varying) -> Tensor:
    """A mask for each frame, (frames, H, W) from 0 to 1: the given one times a number for each.

    Args:
        mask: (H, W), (1, H, W) or (frames, H, W).

    Raises:
        ValueError: another shape, what is not finite, or a curve over the steps.
    """
    if mask.dim() not in (2, 3) or not mask.isfinite().all():
        raise ValueError(f"`mask` has shape {tuple(mask.shape)}, expected (frames, height, width), all finite.")
    mask = mask.reshape(-1, *mask.shape[-2:])
    if len(mask) not in (1, frames):
        raise ValueError(f"`mask` holds {len(mask)} pictures, expected 1 or {frames}, one for each frame.")
    if strength.steps:
        raise ValueError("`strength_curve` goes over the steps, expected one over the frames: a mask has no steps.")
    values = strength.over_frames(range(frames), frames).to(mask)
    return (mask * values.view(-1, 1, 1)).clamp(0, 1)
