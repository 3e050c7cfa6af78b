"""Classifier-free guidance that changes over the frames and over the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .settings import settings
from .varying import LAST_TIMESTEP, Varying, at_step

CFG_FUNCTION = "sampler_cfg_function"


def set_guidance(model: Any, cfg: Varying) -> Any:
    """A clone of a MODEL whose guidance scale is that of the settings, whatever the sampler's is.

    A function of another node that mixes the two predictions, such as core's RescaleCFG, stays: it gets the scale of
    each frame as a tensor.
    """
    clone = model.clone()
    mix = _guided(cfg, model.model_options.get(CFG_FUNCTION))
    clone.set_model_sampler_cfg_function(mix, disable_cfg1_optimization=True)
    return clone


def _guided(cfg: Varying, other: Callable[[dict], Tensor] | None) -> Callable[[dict], Tensor]:
    def mix(arguments: dict) -> Tensor:
        model_options = arguments.get("model_options") or {}
        x, sigma, model = arguments["input"], arguments["sigma"], arguments["model"]
        frames = settings(model_options.get("transformer_options", {})).get("frames_per_clip") or len(x)
        scale = cfg.over_frames(range(frames), frames).repeat(len(x) // frames).to(x.device)
        timestep = model.model_sampling.timestep(sigma.flatten()[:1]).float()
        scale = at_step(scale, cfg.step_pieces(x.device), timestep.clamp(0, LAST_TIMESTEP))
        scale = scale.view(-1, *[1] * (x.dim() - 1))
        if other is not None:
            return other({**arguments, "cond_scale": scale})
        cond, uncond = arguments["cond"], arguments["uncond"]
        return uncond + scale * (cond - uncond)

    return mix
