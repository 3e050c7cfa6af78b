"""ComfyUI-UNetMotion's core: the motion UNet of AnimateDiff and its family, usable from any Python program."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "UNetMotionModel": ".model.unet_motion_model",
    "UNetMotionOutput": ".model.unet",
    "UNet3DConditionOutput": ".model.unet_motion_model",
    "MotionAdapter": ".model.motion_adapter",
    "UNetMotionConfig": ".config.unet",
    "MotionAdapterConfig": ".config.adapter",
    "ForwardOptions": ".forward.options",
    "FreeU": ".ops.freeu",
    "Hooks": ".forward.hooks",
    "StepGraphs": ".runtime.cuda_graphs",
    "MoreMotion": ".forward.more_motion",
    "MotionAmount": ".forward.motion_amount",
    "TextKeys": ".forward.text_keys",
    "Views": ".forward.views",
    "load_unet": ".formats",
    "load_motion_module": ".formats",
    "inspect_file": ".formats",
    "apply_motion_lora": ".lora.apply",
    "load_motion_lora": ".lora.apply",
    "remove_motion_lora": ".lora.apply",
    "MotionPipeline": ".sampling",
    "ContextWindows": ".sampling",
    "WindowPart": ".sampling",
    "FreeInit": ".sampling",
    "ImageInjection": ".sampling",
    "StepCache": ".sampling",
    "NoiseMix": ".sampling",
    "free_noise": ".sampling",
    "Curve": ".schedule",
    "PromptSchedule": ".schedule",
}

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str):
    # Loaded on first use, so that `unet-motion --help` does not wait for torch.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
