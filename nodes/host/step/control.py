"""ComfyUI's control dict (ControlNet, T2I-Adapter) as residuals by stage of the UNet.

ComfyUI takes entries from the end of each list, one per stage; here they are indexed, so nothing is consumed. `output`
is in the order of the skips: its last entry belongs to the first output stage. `input` is reversed: its last entry
belongs to input stage 0.
"""

from __future__ import annotations

from torch import Tensor

NAMES = {"input": "T2I-Adapter", "middle": "ControlNet", "output": "ControlNet"}


def residual(control: dict | None, kind: str, index: int) -> Tensor | None:
    """The residual of a stage: `input`, `middle` (index 0) or `output`; None where there is none."""
    entries = (control or {}).get(kind) or ()
    return entries[-1 - index] if index < len(entries) else None


def add_residual(hidden: Tensor, control: dict | None, kind: str, index: int) -> Tensor:
    """hidden (N, C, H, W) plus the stage's residual (N or 1, C, H, W).

    Raises:
        ValueError: the residual has another shape, so it was made for another model, size or number of frames.
    """
    extra = residual(control, kind, index)
    if extra is None:
        return hidden
    if extra.shape[1:] != hidden.shape[1:] or extra.shape[0] not in (1, hidden.shape[0]):
        raise ValueError(
            f"{NAMES[kind]} residual for {kind} block {index} has shape {tuple(extra.shape)}, but the model has "
            f"{tuple(hidden.shape)} there: {_reason(extra, hidden)}."
        )
    return hidden + extra.to(hidden.dtype)


def _reason(extra: Tensor, hidden: Tensor) -> str:
    if extra.shape[1] != hidden.shape[1]:
        return "the control model is made for another base model"
    if extra.shape[2:] != hidden.shape[2:]:
        return "its hint has another size, or another node (such as PatchModelAddDownscale) resizes the UNet's pictures"
    return "it is for another number of frames"
