"""LoRAs of every naming on a MODEL: what core's loader finds, PEFT's names, and motion LoRAs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.utils
import torch
from torch import Tensor

from ...unet_motion.files.errors import FileFormatError, name_some
from ...unet_motion.files.reading import open_tensors
from ...unet_motion.lora.apply import check_matched, motion_only, scaled
from ...unet_motion.lora.names import LayerNames, layer_of, read_lora
from ...unet_motion.schedule import Curve
from .model.build import UNET_PREFIX
from .step.settings import settings, with_settings
from .step.strengths import VaryingLora
from .step.varying import Varying

MOTION = "motion."


@dataclass(frozen=True)
class Match:
    """What a LoRA file holds for one MODEL.

    Attributes:
        patches: the MODEL's weights -> ComfyUI's patches of them.
        unmatched: layers of the file that the MODEL does not have, or has in another shape.
        text_layers: how many layers of the file belong to the text encoder.
    """

    patches: dict[str, Any]
    unmatched: list[str]
    text_layers: int


def layers_named(model: Any, names: set[str]) -> dict[str, str]:
    """The names that LoRA files call a layer of a MODEL's UNet by -> its weight in the MODEL."""
    core = comfy.lora.model_lora_keys_unet(model.model, {})
    layers = []
    for key in model.model.state_dict():
        if key.startswith(UNET_PREFIX) and key.endswith(".weight"):
            layer = key[len(UNET_PREFIX) : -len(".weight")]
            layers.append((layer.removeprefix(MOTION), key))
    for layer, key in comfy.utils.unet_to_diffusers(model.model.model_config.unet_config).items():
        if layer.endswith(".weight"):
            layers.append((layer[: -len(".weight")], UNET_PREFIX + key))
    known = LayerNames(layers)
    found = {name: known.find(name) or core.get(name) for name in names}
    return {name: key for name, key in found.items() if key is not None}


def _fits(patch: Any, shape: torch.Size) -> bool:
    """Whether a patch makes changes of a weight's shape; kinds other than plain LoRAs are left to ComfyUI."""
    if isinstance(patch, tuple):
        return patch[0] not in ("diff", "set") or patch[1][0].shape == shape
    if getattr(patch, "name", "") != "lora" or patch.weights[5] is not None:
        return True
    up, down = patch.weights[:2]
    return up.shape[0] == shape[0] and (down[0].numel() == shape[1:].numel() or patch.weights[3] is not None)


def match_lora(model: Any, path: str) -> Match:
    """What a LoRA file changes in a MODEL.

    Raises:
        FileFormatError: the file is damaged, or holds NaN.
    """
    tensors, text_layers = read_lora(open_tensors(path))
    wanted = {layer_of(name) for name in tensors}
    known = layers_named(model, wanted)
    _check_once(path, known)
    shapes = {key: tensor.shape for key, tensor in model.model.state_dict().items()}
    patches = comfy.lora.load_lora(tensors, known, log_missing=False)
    wrong = {key for key, patch in patches.items() if key not in shapes or not _fits(patch, shapes[key])}
    fitting = {key: patch for key, patch in patches.items() if key not in wrong}
    unmatched = sorted(layer for layer in wanted if known.get(layer) not in fitting)
    return Match(fitting, unmatched, text_layers)


def _check_once(path: str, known: Mapping[str, str]) -> None:
    """Raise FileFormatError where two names of a file mean one weight."""
    seen: dict[str, str] = {}
    for layer in sorted(known):
        other = seen.setdefault(known[layer], layer)
        if other != layer:
            raise FileFormatError(
                f"{os.path.basename(path)}: has {other} and {layer} for one layer of `model`, expected one of them."
            )


def matched_lora(model: Any, path: str, allow_partial: bool = False) -> Match:
    """What a LoRA file changes in a MODEL; the log says how many layers it met, and names those that it did not.

    Raises:
        KeyMismatchError: a layer of the file does not fit the MODEL, or with ``allow_partial`` none does.
        FileFormatError: see :func:`match_lora`.
    """
    match, name = match_lora(model, path), os.path.basename(path)
    total = len(match.patches) + len(match.unmatched)
    check_matched(name, len(match.patches), match.unmatched, "`model`", None if allow_partial else "`allow_partial`")
    logging.info("%s: %d of %d layers matched.", name, len(match.patches), total)
    if match.text_layers:
        logging.info("%s also has %d layers of a text encoder; Load LoRA applies those.", name, match.text_layers)
    if match.unmatched:
        logging.warning(
            "%s: %d of %d layers do not fit the model and are left out: %s.",
            name, len(match.unmatched), total, name_some(match.unmatched, len(match.unmatched)),
        )  # fmt: skip
    return match


def load_lora(model: Any, path: str, strength: float, allow_partial: bool = False) -> Any:
    """A clone of a MODEL with a LoRA file's changes, multiplied by a strength.

    Raises:
        KeyMismatchError, FileFormatError: see :func:`matched_lora`.
    """
    return _patched(model, matched_lora(model, path, allow_partial), strength)


def load_motion_lora(
    model: Any, path: str, strength: float, over_steps: str = "", over_frames: str = "", allow_partial: bool = False,
    curves: Sequence[Curve] = (),
) -> Any:  # fmt: skip
    """A clone of a MODEL with a LoRA whose strength may change over the steps and the frames.

    Where it does not, the LoRA is ComfyUI's patches of the weights; where it does, a setting of the MODEL.

    Args:
        over_steps, over_frames: what the strength is multiplied with, see :meth:`Curve.parse`; empty is 1.
        curves: more of them.

    Raises:
        KeyMismatchError, FileFormatError: see :func:`matched_lora`.
        ValueError: no curve, or one for a file with image layers or other layers than plain LoRAs.
    """
    given = {"steps": over_steps, "frames": over_frames}
    texts = [Curve.parse(f"strength_over_{over}", text, over) for over, text in given.items() if text.strip(", \n")]
    varying = Varying.of(strength, [*texts, *curves])
    match = matched_lora(model, path, allow_partial)
    if varying.is_constant:
        return _patched(model, match, varying.number)
    lora = motion_only(os.path.basename(path), {_core_path(key): _pair(key, p) for key, p in match.patches.items()})
    before = settings(model.model_options["transformer_options"]).get("motion_loras", [])
    return with_settings(model, motion_loras=[*before, VaryingLora(lora.name, lora.layers, varying)])


def lora_hooks(model: Any, path: str, strength: float) -> Any:
    """Core's hooks that put a LoRA on for the conditionings that carry them; the MODEL is left as it is.

    Raises:
        KeyMismatchError, FileFormatError: see :func:`matched_lora`.
    """
    group = comfy.hooks.create_hook_lora(matched_lora(model, path).patches, strength, 0.0)
    for hook in group.hooks:
        # The patches are those of the MODEL's weights, and core need not look for names.
        hook.need_weight_init, hook.weights_clip = False, {}
    return group


def _patched(model: Any, match: Match, strength: float) -> Any:
    clone = model.clone()
    clone.add_patches(match.patches, strength)
    return clone


def _core_path(key: str) -> str:
    return key.removeprefix(UNET_PREFIX).removeprefix(MOTION).removesuffix(".weight")


def _pair(key: str, patch: Any) -> tuple[Tensor, Tensor]:
    """(down, up) of ComfyUI's patch of a weight, times alpha / rank."""
    weights = getattr(patch, "weights", ())
    if getattr(patch, "name", "") != "lora" or any(extra is not None for extra in weights[3:]):
        raise ValueError(f"a strength that varies needs plain LoRA layers, but {_core_path(key)} is of another kind.")
    up, down, alpha = weights[:3]
    return down, scaled(up, 1.0 if alpha is None else float(alpha) / down.shape[0])
