"""How LoRA files of every naming call the layers of a UNet, and how their tensors are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .reading import TensorSource

PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "module.", "_orig_mod.")
"""What trainers put before a layer's name, in any combination."""
_BEFORE = frozenset("adapter base diffusion lora lycoris mod model module motion orig pipe unet".split())

TEXT = ("lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "text_encoder_2.", "te1.", "te2.")
METADATA = "lora_adapter_metadata"
# The names of PEFT carry the adapter's own name in the middle: `to_q.lora_A.default.weight`.
_PEFT = re.compile(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$")
_PARAMETER = re.compile(
    r"(\.(lora_(up|down|mid|A|B)(\.default)?(\.weight)?|lora\.(up|down)\.weight|lora_linear_layer\.(up|down)\.weight"
    r"|alpha|dora_scale|diff|diff_b|set_weight|w_norm|b_norm|reshape_weight|rescale|oft_blocks|[ab][12]\.weight"
    r"|(hada|lokr)_[wt]\d(_[ab])?)|_lora\.(up|down)\.weight)$"
)


class LayerNames:
    """Finds the layer that a file means, by the structure of its name.

    Names of diffusers, PEFT, kohya, LyCORIS, AnimateDiff, MotionDirector and HotshotXL differ in what stands between
    the numbers and words of a layer's place (``.processor.``, ``.temporal_transformer.``), before them, in dots or
    underscores, and in whether the first part of an output projection is counted. Words that no layer has mean
    nothing between others.

    Args:
        layers: what to give -> the layer's names, by diffusers or Stable Diffusion.
    """

    def __init__(self, layers: Iterable[tuple[str, str]]) -> None:
        layers = list(layers)
        self.words = {word for name, _ in layers for word in _words(name)}
        self.found = {self._place(name): target for name, target in layers}

    def find(self, name: str) -> str | None:
        """The layer of a name without parameter, such as :func:`layer_of` gives."""
        return self.found.get(self._place(name))

    def _place(self, name: str) -> tuple[str, ...]:
        words = _words(name)
        while len(words) > 1 and words[0] in _BEFORE:
            words = words[1:]
        ends = (0, len(words) - 1)  # an unknown word there is of another model, or names another layer
        kept = [word for i, word in enumerate(words) if i in ends or word.isdigit() or word in self.words]
        return (*kept, "0") if kept[-2:] == ["to", "out"] else tuple(kept)


def _words(name: str) -> list[str]:
    """A name's words and numbers, as diffusers has them."""
    name = name.replace(".", "_").replace("temporal_attentions_", "motion_modules_")
    name = re.sub(r"(?<=_)temporal_transformer_", "", name)
    return re.sub(r"attention_blocks_(\d+)", lambda found: f"attn{int(found[1]) + 1}", name).split("_")


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
