"""How LoRA files of every naming call the layers of a UNet, and how their tensors are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.errors import FileFormatError, shorten
from ..files.limits import parse_object, read_bounded
from ..files.reading import TensorSource

PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "module.", "_orig_mod.")
"""What trainers put before a layer's name, in any combination."""
_BEFORE = frozenset("adapter base diffusion lora lycoris mod model module motion orig pipe unet".split())

_ANY_PREFIX = re.compile(f"(?:{'|'.join(map(re.escape, PREFIXES))})*")
TEXT = ("lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "text_encoder_2.", "te1.", "te2.")
METADATA = "lora_adapter_metadata"
MAX_SCALE = 1e6
"""Of alpha; what trainers write is near the rank."""
# The names of PEFT carry the adapter's own name in the middle: `to_q.lora_A.default.weight`.
_PEFT = re.compile(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$")
_HALF = re.compile(
    r"(lora_(down|up|A|B)|_lora\.(down|up)|lora\.(down|up)|lora_linear_layer\.(down|up))(\.default)?\.weight$"
)
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
    found = _ANY_PREFIX.match(key)
    return key if found is None else key[found.end() :]


def layer_of(key: str) -> str:
    """The layer that a tensor belongs to."""
    return _PARAMETER.sub("", key)


def _alphas(ranks: Mapping[str, int], source: TensorSource) -> dict[str, Tensor]:
    """Scales that PEFT keeps in the header or in adapter_config.json, as the tensors of other formats.

    Raises:
        FileFormatError: that is no JSON object, or has scales that are no numbers.
    """
    words, adapter = f"{source.path}: its entry {METADATA} of the header", {}
    if METADATA in source.metadata:
        adapter = parse_object(source.metadata[METADATA], words)
    if not adapter:
        words, adapter = _adapter_config(source.path)
    alpha = adapter.get("unet.lora_alpha", adapter.get("lora_alpha"))
    patterns = adapter.get("unet.alpha_pattern", adapter.get("alpha_pattern")) or {}
    if not isinstance(patterns, dict):
        raise FileFormatError(f"{words} has a {type(patterns).__name__} as alpha_pattern, expected an object.")
    for name, value in (("lora_alpha", alpha), *patterns.items()):
        if (value is not None or name != "lora_alpha") and not _is_scale(value):
            raise FileFormatError(
                f"{words} has {shorten(ascii(value), 40)} as {shorten(name)}, expected a number of at most "
                f"{MAX_SCALE:g}."
            )
    if alpha is None:
        return {}
    order = {name: place for place, name in enumerate(patterns)}
    found = {layer: _by_pattern(layer, patterns, order, alpha) for layer in ranks}
    if adapter.get("unet.use_rslora", adapter.get("use_rslora")):  # alpha / sqrt(rank) instead of alpha / rank
        found = {layer: value * ranks[layer] ** 0.5 for layer, value in found.items()}
    return {f"{layer}.alpha": torch.tensor(float(value)) for layer, value in found.items()}


def _by_pattern(layer: str, patterns: Mapping[str, float], order: Mapping[str, int], alpha: float) -> float:
    """The scale of the first pattern that a layer's name ends with, by whole parts of the name."""
    parts = layer.split(".")
    ends = (".".join(parts[i:]) for i in range(len(parts)))
    fitting = [end for end in ends if end in order]
    return patterns[min(fitting, key=order.__getitem__)] if fitting else alpha


def _is_scale(value: Any) -> bool:
    # Not a number is not smaller than one.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_SCALE


def _adapter_config(path: Path) -> tuple[str, dict[str, Any]]:
    """PEFT's own configuration beside its own file of weights, and what to call it in an error."""
    file = path.parent / "adapter_config.json"
    if not path.name.startswith("adapter_model") or not file.is_file():
        return str(path), {}
    return f"{path}: its {file.name}", parse_object(read_bounded(file), f"{path}: its {file.name}")


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    shape = list(tensor.shape)
    if name.endswith(".alpha"):
        if tensor.numel() != 1 or tensor.is_complex() or not _is_scale(tensor.item() * 1):
            raise FileFormatError(
                f"{path}: {shorten(name)} has shape {shape} and the value "
                f"{tensor.item() if tensor.numel() == 1 else None}, expected one number of at most {MAX_SCALE:g}."
            )
    elif _HALF.search(name) and (tensor.dim() < 2 or 0 in shape or not tensor.is_floating_point()):
        raise FileFormatError(
            f"{path}: {shorten(name)} has shape {shape} and dtype {str(tensor.dtype).removeprefix('torch.')}, expected "
            "floating-point numbers in two dimensions or more, none of them 0."
        )


def read_lora(source: TensorSource) -> tuple[dict[str, Tensor], int]:
    """The file's tensors of UNet layers without prefixes; and how many layers belong to text encoders.

    Raises:
        FileFormatError: a layer of no rank, or a scale that is no finite number.
    """
    inside = {key: strip(key) for key in source.keys()}
    text = {layer_of(key) for key in inside if key.startswith(TEXT)}
    tensors = {}
    for key, name in inside.items():
        if not key.startswith(TEXT):
            name = _PEFT.sub(r".\1.\2", name)
            tensors[name] = source.read(key)
            _check_tensor(source.path, name, tensors[name])
    own = {layer_of(name) for name in tensors if ".alpha" in name}
    ranks = {layer_of(name): t.shape[0] for name, t in tensors.items() if ".lora_A" in name and t.dim()}
    return {**tensors, **_alphas({k: v for k, v in ranks.items() if k not in own}, source)}, len(text)
