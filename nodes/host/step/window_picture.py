"""The context windows of a MODEL as ComfyUI's IMAGE."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import numpy as np
import torch
from torch import Tensor

from ....unet_motion.sampling.window_picture import draw_windows
from .context_windows import HANDLER, ClipWindows


def picture_of_windows(model: Any, frames: int, steps: int, scheduler: str) -> Tensor:
    """Which window covers which frame at each step of a run, float32 (1, H, W, 3).

    Raises:
        ValueError: the MODEL has no windows of this pack.
    """
    handler = model.model_options.get(HANDLER)
    if not isinstance(handler, ClipWindows):
        raise ValueError("`model` has no windows of this pack; put Context Windows (motion) before this node.")
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps).tolist()
    plans = []
    for step in range(max(1, len(sigmas) - 1)):
        _, plan = handler.plan(frames, step, sigmas, sampling)
        plans.append(plan or [(range(frames), [1.0] * frames)])
    return torch.from_numpy(draw_windows(plans, frames).astype(np.float32) / 255)[None]
