"""LoRAs of every naming on a MODEL: what core's loader finds, PEFT's names, and motion LoRAs."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.utils
import torch
from torch import Tensor

from ...unet_motion.formats.errors import KeyMismatchError, name_some
from ...unet_motion.formats.reading import TensorSource, open_tensors
from .model import UNET_PREFIX

PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "module.")
"""What trainers put before a layer's name, in any combination."""

TEXT = ("lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "text_encoder_2.", "te1.", "te2.")
MOTION = "motion."
METADATA = "lora_adapter_metadata"
# The names of PEFT carry the adapter's own name in the middle: `to_q.lora_A.default.weight`.
_PEFT = re.compile(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$")
_PARAMETER = re.compile(
    r"(\.(lora_(up|down|mid|A|B)(\.default)?(\.weight)?|lora\.(up|down)\.weight|lora_linear_layer\.(up|down)\.weight"
    r"|alpha|dora_scale|diff|diff_b|set_weight|w_norm|b_norm|reshape_weight|rescale|oft_blocks|[ab][12]\.weight"
    r"|(hada|lokr)_[wt]\d(_[ab])?)|_lora\.(up|down)\.weight)$"
)


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


def _spellings(layer: str) -> Iterable[str]:
    """A layer's diffusers name as PEFT, as diffusers' attention processors and as kohya's and LyCORIS' scripts say."""
    processor = layer.replace(".to_", ".processor.to_").removesuffix(".0") if ".to_" in layer else layer
    flat = layer.replace(".", "_")
    return (layer, processor, f"lora_unet_{flat}", f"lycoris_{flat}")


def _original_motion(layer: str) -> str:
    """A motion layer's name in AnimateDiff's own files."""
    layer = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", layer)
    return re.sub(r"\.attn([12])\.", lambda found: f".attention_blocks.{int(found[1]) - 1}.", layer)


def layer_names(model: Any) -> dict[str, str]:
    """Every name by which LoRA files call a layer of a MODEL's UNet -> its weight in the MODEL."""
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    own = {}
    for key in model.model.state_dict():
        if key.startswith(UNET_PREFIX) and key.endswith(".weight"):
            layer = key[len(UNET_PREFIX) : -len(".weight")]
            own[layer] = key
            if layer.startswith(MOTION):
                layer = layer[len(MOTION) :]
                spelled = [*_spellings(layer), *_spellings(_original_motion(layer))]
                own.update(dict.fromkeys(spelled, key))
    for layer, key in comfy.utils.unet_to_diffusers(model.model.model_config.unet_config).items():
        if layer.endswith(".weight"):
            own.update(dict.fromkeys(_spellings(layer[: -len(".weight")]), UNET_PREFIX + key))
    return {**names, **own}


def _strip(key: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key[len(prefix) :]
    return key


def _layer(key: str) -> str:
    return _PARAMETER.sub("", key)


def _alphas(layers: Iterable[str], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Scales that PEFT keeps in the file's header, as the tensors in which other formats keep them."""
    try:
        adapter = json.loads(metadata.get(METADATA, "{}"))
        alpha = adapter.get("unet.lora_alpha", adapter.get("lora_alpha"))
        patterns = adapter.get("unet.alpha_pattern", adapter.get("alpha_pattern")) or {}
    except (ValueError, AttributeError):
        return {}
    if alpha is None:
        return {}
    found = {layer: next((a for name, a in patterns.items() if layer.endswith(name)), alpha) for layer in layers}
    return {f"{layer}.alpha": torch.tensor(float(value)) for layer, value in found.items()}


def _read(source: TensorSource) -> tuple[dict[str, Tensor], int]:
    """The file's tensors of UNet layers without prefixes; and how many layers belong to text encoders."""
    inside = {key: _strip(key) for key in source.keys()}
    text = {_layer(key) for key in inside if key.startswith(TEXT)}
    tensors = {_PEFT.sub(r".\1.\2", name): source.read(key) for key, name in inside.items() if not key.startswith(TEXT)}
    peft = {_layer(name) for name in tensors if ".lora_A" in name} - {_layer(n) for n in tensors if ".alpha" in n}
    return {**tensors, **_alphas(peft, source.metadata)}, len(text)


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
    tensors, text_layers = _read(open_tensors(path))
    names = layer_names(model)
    wanted = {_layer(name) for name in tensors}
    known = {layer: names[layer] for layer in wanted if layer in names}
    shapes = {key: tensor.shape for key, tensor in model.model.state_dict().items() if key.startswith(UNET_PREFIX)}
    patches = comfy.lora.load_lora(tensors, known, log_missing=False)
    wrong = {key for key, patch in patches.items() if key not in shapes or not _fits(patch, shapes[key])}
    fitting = {key: patch for key, patch in patches.items() if key not in wrong}
    unmatched = sorted(layer for layer in wanted if known.get(layer) not in fitting)
    return Match(fitting, unmatched, text_layers)


def load_lora(model: Any, path: str, strength: float) -> Any:
    """A clone of a MODEL with a LoRA file's changes, multiplied by a strength; the log says how many layers it met.

    Raises:
        KeyMismatchError: no layer of the file fits the MODEL.
        FileFormatError: see :func:`match_lora`.
    """
    match, name = match_lora(model, path), os.path.basename(path)
    total = len(match.patches) + len(match.unmatched)
    if not match.patches:
        found = f"layers such as {name_some(match.unmatched, 2)}" if match.unmatched else "no layers of a UNet"
        raise KeyMismatchError(
            f"{name} has {found}, of which none fits `model`; expected a LoRA for this model's layers, with kohya, "
            "diffusers or PEFT names."
        )
    logging.info("%s: %d of %d layers matched.", name, len(match.patches), total)
    if match.text_layers:
        logging.info("%s also has %d layers of a text encoder; Load LoRA applies those.", name, match.text_layers)
    if match.unmatched:
        logging.warning(
            "%s: %d of %d layers do not fit the model and are left out: %s.",
            name, len(match.unmatched), total, name_some(match.unmatched),
        )  # fmt: skip
    clone = model.clone()
    clone.add_patches(match.patches, strength)
    return clone
