"""How LoRA files of every naming call the layers of a UNet, and how their tensors are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.reading import TensorSource

PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "module.", "_orig_mod.")
"""What trainers put before a layer's name, in any combination."""

TEXT = ("lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "text_encoder_2.", "te1.", "te2.")
METADATA = "lora_adapter_metadata"
# The names of PEFT carry the adapter's own name in the middle: `to_q.lora_A.default.weight`.
_PEFT = re.compile(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$")
_PARAMETER = re.compile(
    r"(\.(lora_(up|down|mid|A|B)(\.default)?(\.weight)?|lora\.(up|down)\.weight|lora_linear_layer\.(up|down)\.weight"
    r"|alpha|dora_scale|diff|diff_b|set_weight|w_norm|b_norm|reshape_weight|rescale|oft_blocks|[ab][12]\.weight"
    r"|(hada|lokr)_[wt]\d(_[ab])?)|_lora\.(up|down)\.weight)$"
)


def spellings(layer: str) -> Iterable[str]:
    """A layer's diffusers name as PEFT, as diffusers' attention processors and as kohya's and LyCORIS' scripts say."""
    names = []
    for name in dict.fromkeys((layer, layer.replace(".to_out.0", ".to_out"))):
        flat = name.replace(".", "_")
        names += [name, name.replace(".to_", ".processor.to_"), f"lora_unet_{flat}", f"lycoris_{flat}"]
    return tuple(names)


def original_motion(layer: str) -> str:
    """A motion layer's name in AnimateDiff's own files."""
    layer = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", layer)
    return re.sub(r"\.attn([12])\.", lambda found: f".attention_blocks.{int(found[1]) - 1}.", layer)


def strip(key: str) -> str:
    """A tensor's name without what trainers put before it."""
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key[len(prefix) :]
    return key


def layer_of(key: str) -> str:
    """The layer that a tensor belongs to."""
    return _PARAMETER.sub("", key)


def _alphas(ranks: Mapping[str, int], source: TensorSource) -> dict[str, Tensor]:
    """Scales that PEFT keeps in the header or in adapter_config.json, as the tensors of other formats."""
    try:
        adapter = json.loads(source.metadata.get(METADATA, "{}")) or _adapter_config(source.path)
        alpha = adapter.get("unet.lora_alpha", adapter.get("lora_alpha"))
        patterns = adapter.get("unet.alpha_pattern", adapter.get("alpha_pattern")) or {}
    except (ValueError, AttributeError):
        return {}
    if alpha is None:
        return {}
    found = {layer: next((a for name, a in patterns.items() if layer.endswith(name)), alpha) for layer in ranks}
    if adapter.get("unet.use_rslora", adapter.get("use_rslora")):  # alpha / sqrt(rank) instead of alpha / rank
        found = {layer: value * ranks[layer] ** 0.5 for layer, value in found.items()}
    return {f"{layer}.alpha": torch.tensor(float(value)) for layer, value in found.items()}


def _adapter_config(path: Path) -> dict[str, Any]:
    """PEFT's own configuration beside its own file of weights."""
    file = path.parent / "adapter_config.json"
    return json.loads(file.read_text()) if path.name.startswith("adapter_model") and file.is_file() else {}


def read_lora(source: TensorSource) -> tuple[dict[str, Tensor], int]:
    """The file's tensors of UNet layers without prefixes; and how many layers belong to text encoders."""
    inside = {key: strip(key) for key in source.keys()}
    text = {layer_of(key) for key in inside if key.startswith(TEXT)}
    tensors = {_PEFT.sub(r".\1.\2", name): source.read(key) for key, name in inside.items() if not key.startswith(TEXT)}
    own = {layer_of(name) for name in tensors if ".alpha" in name}
    ranks = {layer_of(name): t.shape[0] for name, t in tensors.items() if ".lora_A" in name}
    return {**tensors, **_alphas({k: v for k, v in ranks.items() if k not in own}, source)}, len(text)
