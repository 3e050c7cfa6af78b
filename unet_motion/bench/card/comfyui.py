"""ComfyUI's own way: KSampler's steps on the same network, with the pack's fast ways and without."""

from __future__ import annotations

from ..evolved import find_comfyui, version_of
from ..processes import ROOT, answer_of
from .stages import Card, Found


def stage(card: Card, found: Found) -> None:
    """A row for each way, measured in a process with ComfyUI in it.

    Raises:
        NotMeasured: ComfyUI is not named, is not there or does not run here.
    """
    sizes, comfyui = card.sizes, find_comfyui(card.comfyui)
    request = {
        "comfyui": str(comfyui), "pack": str(ROOT), "device": str(card.device),
        "dtype": str(sizes.step_dtypes[0]).removeprefix("torch."), "widths": sizes.comfy_widths,
        "side": sizes.comfy_side, "frames": sizes.frames, "steps": sizes.comfy_steps, "modes": sizes.comfy_modes,
    }  # fmt: skip
    for row in answer_of(f"{__package__}.comfyui_process", request, max(1.0, card.left - 1)):
        found.add(f"KSampler, {row.pop('way')}, ComfyUI {version_of(comfyui)}", **row)
