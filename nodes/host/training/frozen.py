"""A MODEL's UNet as an ordinary torch module, with values of its own: what a LoRA is trained on.

ComfyUI moves, casts and patches the weights of its models, and makes them where nothing can be differentiated. A copy
leaves the MODEL as it is, whatever happens to the training.
"""

from __future__ import annotations

import logging
from typing import Any

import comfy.lora
import comfy.model_sampling
import torch
from comfy.model_patcher import get_key_weight
from torch import Tensor

from ....unet_motion import UNetMotionConfig, UNetMotionModel
from ....unet_motion.sampling import NoiseSchedule
from ..checks import require_motion_model
from ..model.build import UNET_PREFIX, original_weights
from ..model.ldm_view import LDMView
from ..step.settings import settings


def bare_unet(config: UNetMotionConfig) -> UNetMotionModel:
    """The UNet of a configuration without storage."""
    return UNetMotionModel(**{name: config[name] for name in config.field_names()}, device="meta")


@torch.no_grad()
def frozen_unet(model: Any, device: torch.device, dtype: torch.dtype) -> UNetMotionModel:
    """A MODEL's UNet with the LoRAs and other patches of its weights, copied to a device.

    Args:
        dtype: of the matrices; norms, biases and position tables are float32.

    Raises:
        ValueError: the MODEL has no motion modules, or weights of a kind that cannot be read.
    """
    config = require_motion_model(model).core.config
    if ignored := _only_while_sampling(model):
        logging.warning("Train Motion LoRA: %s of `model` act while it samples and are left out.", ignored)
    view = LDMView(bare_unet(config), dtype)
    given, weights = original_weights(model), {}
    for name, wanted in view.state_dict().items():
        weight = _patched(model, UNET_PREFIX + name, given[name], device) if name in given else None
        if weight is None or weight.shape != wanted.shape:
            found = "nothing" if weight is None else f"shape {tuple(weight.shape)}"
            raise ValueError(f"`model` has {found} for the weight {name}, expected shape {tuple(wanted.shape)}.")
        weights[name] = weight.to(dtype if weight.ndim > 1 and not name.endswith(".pe") else torch.float32)
    view.load_state_dict(weights, strict=True, assign=True)
    return view.core.requires_grad_(False).eval()


def _patched(model: Any, key: str, weight: Tensor, device: torch.device) -> Tensor:
    """A weight as the MODEL computes with it, in float32."""
    *_, convert = get_key_weight(model.model, key)
    own = weight.to(device, torch.float32, copy=True)
    if convert is not None:
        own = convert(own, inplace=True)
    patches = model.patches.get(key)
    return own if not patches else comfy.lora.calculate_weight(patches, own, key)


def _only_while_sampling(model: Any) -> str:
    """What a MODEL carries that is no change of its weights."""
    chosen = settings(model.model_options.get("transformer_options", {}))
    names = {"motion_loras": "motion LoRAs whose strength varies", "freeu": "FreeU"}
    found = [words for name, words in names.items() if chosen.get(name)]
    return " and ".join([*found, *(["LoRAs by hooks"] if getattr(model, "hook_patches", None) else [])])


def schedule_of(model: Any) -> NoiseSchedule:
    """The noise that a MODEL was made for, and what it predicts.

    Raises:
        ValueError: it is none of a thousand levels or so, each with a timestep of its own.
    """
    sampling = model.get_model_object("model_sampling")
    prediction = _prediction(sampling)
    sigmas = getattr(sampling, "sigmas", None)
    if prediction is None or sigmas is None or not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
        kinds = ", ".join(kind.__name__ for kind in type(sampling).__mro__[1:3])
        raise ValueError(f"`model` samples by {kinds}, expected discrete noise levels and eps, v or x0.")
    sigmas = sigmas.detach().cpu()
    if not torch.equal(sampling.timestep(sigmas.to(sampling.sigmas.device)).cpu().long(), torch.arange(len(sigmas))):
        raise ValueError(
            f"`model` has {len(sigmas)} noise levels for other timesteps, as LCM's ModelSampling makes them; expected "
            "one for each timestep: train before that node."
        )
    return NoiseSchedule(1 / (sigmas.double() ** 2 + 1), prediction)


def _prediction(sampling: Any) -> str | None:
    """The last that fits: ComfyUI's classes are made from one another."""
    known = {"EPS": "epsilon", "V_PREDICTION": "v_prediction", "X0": "sample", "EDM": None, "CONST": None}
    found = None
    for name, prediction in known.items():
        kind = getattr(comfy.model_sampling, name, None)
        if kind is not None and isinstance(sampling, kind):
            found = prediction
    return found
