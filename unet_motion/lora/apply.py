"""Motion LoRAs, and any other LoRA of a UNet's layers, on a motion UNet.

W + s * (alpha / rank) * up @ down (Hu et al., 2021, https://arxiv.org/abs/2106.09685). The weights stay as they are:
the two thin products are added to a layer's output, so no dense copy is made, and taking a LoRA away is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.errors import FileFormatError, KeyMismatchError, name_some
from ..files.reading import TensorSource, open_tensors
from ..formats.names.ldm import modules_of
from ..forward.lora import MotionLora
from ..model.unet import MotionUNet
from ..ops.linear.low_rank import low_rank
from ..values import is_finite, quoted
from .names import LayerNames, layer_of, read_lora

_DOWN = (
    ".lora_down.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_A.weight",
    ".lora_linear_layer.down.weight",
)
_UP = (".lora_up.weight", ".lora.up.weight", "_lora.up.weight", ".lora_B.weight", ".lora_linear_layer.up.weight")
_PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")


@dataclass(eq=False)
class AppliedLora:
    """A LoRA that acts on a UNet.

    Attributes:
        name: of the file.
        matched: paths of the UNet's layers that it changes.
        unmatched: layers of the file that the UNet lacks, has in another shape, or that are no plain LoRA.
        text_layers: how many layers of the file belong to text encoders.
        strength: one number, or one per frame; may be set at any time between two calls.
    """

    name: str
    matched: list[str]
    unmatched: list[str]
    text_layers: int
    strength: float | Tensor
    _handles: list[Any] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Take the LoRA away; the UNet computes what it did before, bit for bit."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def apply_motion_lora(
    unet: MotionUNet,
    lora: str | Path | Mapping[str, Tensor],
    strength: float | Sequence[float] | Tensor = 1.0,
    allow_partial: bool = False,
) -> AppliedLora:
    """Let a LoRA act on a UNet; several may act at once.

    Names are read by their structure, as AnimateDiff, diffusers, PEFT, kohya, A1111, MotionDirector and others have
    them; with and without alpha, and each layer has a rank of its own.

    Args:
        unet: a ``UNetMotionModel``.
        lora: a file, PEFT's folder, or tensors by name.
        strength: 0 is nothing, 1 as trained; one number, or one per frame (F,), for LoRAs of motion modules only.
        allow_partial: apply what fits of a file of which some layers do not; they are in ``unmatched``.

    Raises:
        OSError: nothing is there.
        KeyMismatchError: a layer of the file does not fit the UNet, or with ``allow_partial`` none does.
        FileFormatError: the file is damaged.
        ValueError: a strength that is not finite, or one per frame for image layers.
    """
    strength = _check_strength(strength)
    name, layers, unmatched, text_layers = _matched(unet, lora, allow_partial)
    image_layers = [path for path in layers if ".motion_modules." not in path]
    if isinstance(strength, Tensor) and image_layers:
        raise ValueError(f"{name}: `strength` is one number per frame, but {image_layers[0]} is no motion layer.")
    applied = AppliedLora(name, sorted(layers), unmatched, text_layers, strength)
    for path, pair in layers.items():
        layer = unet.get_submodule(path)
        applied._handles.append(layer.register_forward_hook(_Hook(applied, path, *pair)))
    applied_loras(unet).append(applied)
    return applied


def load_motion_lora(
    unet: MotionUNet, lora: str | Path | Mapping[str, Tensor], allow_partial: bool = False
) -> MotionLora:
    """A LoRA of motion layers for ``ForwardOptions(motion_loras=[...])``; the UNet is left as it is.

    There its strength may differ from frame to frame and from call to call, which is step to step: ``lora.at(0.5)``,
    ``lora.at([0, 0.5, 1, 1])``. Files as for :func:`apply_motion_lora`.

    Raises:
        OSError, KeyMismatchError, FileFormatError: see :func:`apply_motion_lora`.
        ValueError: the file has image layers.
    """
    name, layers, _, _ = _matched(unet, lora, allow_partial)
    return motion_only(name, {path: (down, scaled(up, factor)) for path, (down, up, factor) in layers.items()})


def scaled(up: Tensor, factor: float) -> Tensor:
    """The second half of a pair times alpha / rank, in float32 at least."""
    return up if factor == 1 else (up.float() if up.element_size() < 4 else up) * factor


def motion_only(name: str, layers: Mapping[str, tuple[Tensor, Tensor]]) -> MotionLora:
    """Pairs (down, up) by the layer's path in the UNet as a LoRA of motion layers.

    Raises:
        ValueError: one of them is an image layer.
    """
    for path in layers:
        if ".motion_modules." not in path:
            raise ValueError(f"{name}: only motion layers take a strength that varies, but it changes {path}.")
    return MotionLora(name, {path: (down.flatten(1), up.flatten(1)) for path, (down, up) in layers.items()})


def _matched(
    unet: MotionUNet, lora: str | Path | Mapping[str, Tensor], allow_partial: bool
) -> tuple[str, dict[str, tuple[Tensor, Tensor, float]], list[str], int]:
    """Name, path -> (down, up, alpha / rank) of the layers that fit, the other layers, layers of text encoders."""
    name, tensors, text_layers = _tensors(lora)
    known = layer_names(unet)
    layers: dict[str, Any] = {}
    taken: dict[str, Any] = {}
    for layer, pair in _pairs(tensors).items():
        path = known.find(layer)
        if path is None or not _fits(unet, path, pair):
            continue
        if path in layers:
            raise FileFormatError(f"{name}: has {taken[path]} and {layer} for the layer {path}, expected one of them.")
        layers[path], taken[path] = pair, layer
    fitting = set(taken.values())
    unmatched = sorted(layer for layer in {layer_of(key) for key in tensors} if layer not in fitting)
    check_matched(name, len(layers), unmatched, "the UNet", "`allow_partial`" if not allow_partial else None)
    return name, layers, unmatched, text_layers


def check_matched(name: str, count: int, unmatched: Sequence[str], model: str, allowing: str | None) -> None:
    """Raise KeyMismatchError where too little of a LoRA fits.

    Args:
        count: how many layers fit; unmatched: those that do not.
        model: what they should fit, in words.
        allowing: what the user sets to apply a part; None where that is set.
    """
    if not count:
        found = f"layers such as {name_some(unmatched, 2)}" if unmatched else "no layers of a UNet"
        raise KeyMismatchError(
            f"{name}: has {found}, of which none fits {model}; expected a LoRA for its layers, with AnimateDiff's, "
            "diffusers', PEFT's or kohya's names."
        )
    if unmatched and allowing is not None:
        raise KeyMismatchError(
            f"{name}: {len(unmatched)} of {len(unmatched) + count} layers do not fit {model}: {name_some(unmatched)}; "
            f"expected all of them, or set {allowing} to use the others alone."
        )


def remove_motion_lora(unet: MotionUNet, applied: AppliedLora | None = None) -> None:
    """Take one LoRA away, or all of them.

    Raises:
        ValueError: that LoRA does not act on this UNet.
    """
    active = applied_loras(unet)
    if applied is not None and applied not in active:
        raise ValueError(f"the LoRA {applied.name} does not act on this UNet.")
    for lora in list(active) if applied is None else [applied]:
        lora.remove()
        active.remove(lora)


def layer_names(unet: MotionUNet) -> LayerNames:
    """The paths of a UNet's layers by what LoRA files call them."""
    ldm = modules_of(unet.config) if unet.config.mid_block_layers == 1 else {}
    names = []
    for path, module in unet.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() >= 2:
            original = _ldm_path(path, ldm)
            names += [(path, path), *([(original, path)] if original else [])]
    return LayerNames(names)


def _ldm_path(path: str, modules: Mapping[str, str]) -> str | None:
    end = len(path)
    while end > 0:
        if path[:end] in modules:
            return modules[path[:end]] + path[end:]
        end = path.rfind(".", 0, end)
    return None


def applied_loras(unet: MotionUNet) -> list[AppliedLora]:
    """Those that act on a UNet."""
    return unet.__dict__.setdefault("_motion_loras", [])


def _tensors(lora: str | Path | Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], int]:
    if isinstance(lora, Mapping):
        return "LoRA", *read_lora(cast(TensorSource, _Given(lora)))
    path = Path(lora).expanduser()
    if path.is_dir():
        path = next((path / file for file in _PEFT_FILES if (path / file).is_file()), path)
    return path.name, *read_lora(open_tensors(path))


class _Given:
    """Tensors in memory, read as those of a file."""

    path = Path("LoRA")
    metadata: dict[str, str] = {}

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def keys(self) -> list[str]:
        return list(self.tensors)

    def read(self, key: str) -> Tensor:
        return self.tensors[key]


def _check_strength(strength: float | Sequence[float] | Tensor) -> float | Tensor:
    if isinstance(strength, (int, float)) and is_finite(strength):
        return float(strength)
    values = torch.as_tensor(strength, dtype=torch.float32) if not isinstance(strength, (int, float)) else None
    if values is None or values.dim() > 1 or not torch.isfinite(values).all() or not values.numel():
        raise ValueError(f"`strength` is {quoted(strength)}, expected a finite number, or one per frame.")
    return float(values) if values.dim() == 0 else values


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Layer -> (down, up, alpha / rank); layers of other methods, or with half a pair, are left out."""
    down = {layer_of(key): value for key, value in tensors.items() if key.endswith(_DOWN)}
    up = {layer_of(key): value for key, value in tensors.items() if key.endswith(_UP)}
    others = ("dora_scale", "lora_mid", "hada_", "lokr_", "oft_blocks", "reshape_weight")
    foreign = {layer_of(key) for key in tensors if any(word in key for word in others)}
    pairs = {}
    for layer in (down.keys() & up.keys()) - foreign:
        rank = down[layer].shape[0]
        alpha = tensors.get(f"{layer}.alpha")  # one finite number: read_lora has seen to that, as to the rank
        pairs[layer] = (down[layer], up[layer], 1.0 if alpha is None else float(alpha) / rank)
    return pairs


def _fits(unet: MotionUNet, path: str, pair: tuple[Tensor, Tensor, float]) -> bool:
    down, up, _ = pair
    shape = cast(nn.Linear, unet.get_submodule(path)).weight.shape
    ranks = down.dim() > 1 and up.dim() > 1 and up[0].numel() == down.shape[0]
    return ranks and up.shape[0] == shape[0] and down[0].numel() == shape[1:].numel()


class _Hook:
    """Adds a LoRA's product to a layer's output."""

    replayable = True
    """It does the same in each step until the strength changes, see :class:`unet_motion.StepGraphs`."""

    def __init__(self, applied: AppliedLora, path: str, down: Tensor, up: Tensor, factor: float) -> None:
        self.applied, self.path, self.factor = applied, path, factor
        self.down, self.up = down, up

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, strength = inputs[0], self.applied.strength
        if not isinstance(strength, Tensor) and strength == 0:
            return output
        if self.down.dtype != x.dtype or self.down.device != x.device:
            self.down, self.up = self.down.to(x), self.up.to(x)
        conv = cast(nn.Conv2d, module)
        weight = conv.weight
        if weight.dim() == 2:
            change = low_rank(x, self.down.flatten(1), self.up.flatten(1))
        else:
            down = self.down.reshape(-1, *weight.shape[1:])
            change = F.conv2d(F.conv2d(x, down, None, conv.stride, conv.padding), self.up.flatten(1)[..., None, None])
        if isinstance(strength, Tensor):
            strength = self._per_frame(strength, x)
        return output + change * (self.factor * strength)

    def _per_frame(self, strength: Tensor, x: Tensor) -> Tensor:
        if x.dim() < 3 or x.shape[1] != strength.numel():
            raise ValueError(
                f"{self.applied.name}: `strength` has {strength.numel()} numbers, expected one for each of the "
                f"{x.shape[1]} frames that {self.path} computes at once."
            )
        return strength.to(x).view(1, -1, *(1,) * (x.dim() - 2))
