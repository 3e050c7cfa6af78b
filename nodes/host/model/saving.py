"""What a MODEL's file says beside its weights, so that Load Motion UNet makes the same MODEL from it again.

Core's saving nodes write the header of the file themselves and know nothing of motion modules; what they write of a
UNet goes through its configuration, which adds one small tensor.
"""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
from torch import Tensor

from ....unet_motion import UNetMotionConfig
from ....unet_motion.bundled import added_vector
from ....unet_motion.files.description import DESCRIPTION_KEY, describe_file, description_tensor
from ....unet_motion.formats import FileFormatError

PART = "comfyui"
POOLED = {"bundled": added_vector}


class UnscaledLatent(comfy.latent_formats.LatentFormat):
    """Latents of an autoencoder that needs no scaling, such as the bundled one: 4 channels."""

    scale_factor = 1.0
    # Least squares over 1024 frames of 64 drawn clips (seed 0): the bundled autoencoder's latents against what it makes
    # of them, averaged over 8x8 pixels and scaled to -1..1.
    latent_rgb_factors = [
        #   R        G        B
        [-0.1787, -0.2054, 0.0650],
        [0.1719, -0.0656, 0.0468],
        [-0.0366, 0.0694, 0.2868],
        [0.1423, 0.0517, 0.0110],
    ]
    latent_rgb_factors_bias = [-0.4881, -0.5121, -0.5261]


LATENTS = {
    "sd15": comfy.latent_formats.SD15,
    "unscaled": UnscaledLatent,
    "sdxl": comfy.latent_formats.SDXL,
    "playground": comfy.latent_formats.SDXL_Playground_2_5,
}
BASES = {"sdxl": comfy.model_base.SDXL}
"""Models of ComfyUI that make a vector of text and size of their own, as `encode_adm`."""


def _name_of(value: Any, names: dict[str, Any]) -> str | None:
    return next((name for name, known in names.items() if known is value), None)


def describe(model: Any, config: UNetMotionConfig) -> dict[str, Any]:
    """What a file of a BaseModel must say: numbers and strings only."""
    return {
        "unet": config.to_dict(),
        PART: {
            "sampling": dict(model.model_config.sampling_settings),
            "model_type": model.model_type.name,
            "latent": _name_of(type(model.latent_format), LATENTS),
            "pooled": _name_of(getattr(model, "pooled_vector", None), POOLED),
            "inpaint": bool(model.concat_keys),
            "base": _name_of(type(model), BASES),
        },
    }


def describe_when_saved(model: Any, config: UNetMotionConfig) -> None:
    """Let every file that core writes of a BaseModel say what :func:`describe` does."""
    settings, description = model.model_config, describe(model, config)

    def process(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        saved = type(settings).process_unet_state_dict_for_saving(settings, state_dict)
        return {**saved, DESCRIPTION_KEY: description_tensor(description)}

    # On this configuration only: its class is core's own for models that a motion module was applied to.
    settings.process_unet_state_dict_for_saving = process


def saved_settings(path: str) -> dict[str, Any]:
    """What a file that core saved says of its MODEL, as arguments of `Source`; empty for any other file."""
    found = describe_file(path).get(PART)
    if not isinstance(found, dict):
        return {}
    try:
        _check(found)
        return {
            "sampling": found["sampling"],
            "model_type": comfy.model_base.ModelType[found["model_type"]],
            "latent_format": LATENTS.get(found.get("latent"), comfy.latent_formats.SD15),
            "pooled_vector": POOLED.get(found.get("pooled")),
            "inpaint": found["inpaint"],
            # Files of earlier versions have none.
            "base": BASES.get(found.get("base")),
        }
    except (KeyError, TypeError) as error:
        raise FileFormatError(
            f"{path}: its description of the MODEL is damaged ({error}), expected what ComfyUI saved of it: save the "
            "model again."
        ) from None


def _check(found: dict[str, Any]) -> None:
    """Raise TypeError or KeyError unless every part of a MODEL's description is of its type."""
    for name, kind in (("sampling", dict), ("model_type", str), ("inpaint", bool)):
        if not isinstance(found[name], kind):
            raise TypeError(f"{name} is a {type(found[name]).__name__}")
    for name, value in found["sampling"].items():
        if not isinstance(value, (int, float, str, type(None))):
            raise TypeError(f"{name} of sampling is a {type(value).__name__}")
    for name in ("latent", "pooled", "base"):
        if not isinstance(found.get(name), (str, type(None))):
            raise TypeError(f"{name} is a {type(found[name]).__name__}")
