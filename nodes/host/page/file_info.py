"""What a chosen file is, for the page to show on a loader before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ....unet_motion.files.errors import name_some, shorten
from ....unet_motion.files.reading import open_tensors
from ....unet_motion.formats import FileFormatError, FileInfo, inspect_file
from ....unet_motion.formats.detect import KINDS, MOTION_KINDS, MOTION_UNET_KINDS, UNET_KINDS, detect
from ....unet_motion.formats.infer.absent_blocks import name_blocks
from ....unet_motion.formats.kinds import MOTION_MODULES
from ....unet_motion.lora.names import layer_of, strip
from ..files import paths

NONE = "none"
FAMILIES = {"sd1": "SD1.5", "sd2": "SD2.x", "sdxl": "SDXL", "sdxl-refiner": "SDXL refiner"}
LORA_KINDS = ("lora", "motion_lora")


@dataclass(frozen=True)
class Choice:
    """What the page shows of a chosen file.

    Attributes:
        text: what the file is, in a line.
        problem: why it does not fit this input, or None.
        base: the image model that it is or was made for; None where unknown.
        channels: of each level of its UNet.
    """

    text: str
    problem: str | None = None
    base: str | None = None
    channels: tuple[int, ...] = ()


def _flaws(info: FileInfo) -> str | None:
    """Why a file of the right kind cannot be loaded."""
    if info.loadable:
        return None
    if info.problem:
        return info.problem.removeprefix(f"{info.path}: ")
    kinds = {"missing": info.missing, "unknown": info.unexpected, "of another shape": info.mismatched}
    parts = [f"{len(names)} {word} ({name_some(names, 1)})" for word, names in kinds.items() if names]
    return f"weights are {' and '.join(parts)}"


def _motion_words(info: FileInfo) -> str:
    known = MOTION_MODULES.get(info.version or "")
    title = f"{known.title} motion module" if known else KINDS[info.kind]
    title = title.removeprefix("an ").removeprefix("a ")
    facts = [title if info.base is None or info.base in title else f"{title} for {info.base}"]
    if info.motion_blocks:
        facts.append(f"motion in {name_blocks(info.motion_blocks)} only")
    if info.frames:
        facts.append(f"up to {info.frames} frames")
    if info.norm_scopes:
        facts.append(f"group norms over: resnets {info.norm_scopes[0]}, motion {info.norm_scopes[1]}")
    return " · ".join([*facts, info.dtype or "no floats"])


def _channels(info: FileInfo) -> tuple[int, ...]:
    return tuple(info.config.get("block_out_channels") or ())


def describe_motion_module(name: str) -> Choice:
    """A file of Load Motion Module."""
    info = inspect_file(paths.find_motion_module(name))
    if info.kind not in MOTION_KINDS:
        return Choice(info.description, "expected a motion module")
    return Choice(_motion_words(info), _flaws(info), info.base, _channels(info))


def describe_unet(name: str) -> Choice:
    """A file or folder of Load Motion UNet."""
    info = inspect_file(paths.find_unet(name))
    if info.kind not in UNET_KINDS:
        return Choice(info.description, "expected a UNet or a checkpoint")
    if info.kind in MOTION_UNET_KINDS:
        return Choice(f"UNet with {_motion_words(info)}", _flaws(info), info.base, _channels(info))
    base = FAMILIES.get(info.version or "", "unknown base")
    problem = None if base == "SD1.5" else f"expected an SD1.5 UNet; for {base} use Load Checkpoint"
    return Choice(f"UNet of {base} · {info.dtype}", _flaws(info) or problem, base, _channels(info))


def describe_lora(name: str) -> Choice:
    """A file of Load LoRA."""
    return _describe_lora(paths.find_lora(name))


def describe_motion_lora(name: str) -> Choice:
    """A file of Load Motion LoRA."""
    return _describe_lora(paths.find_motion_lora(name))


def _describe_lora(path: str) -> Choice:
    source = open_tensors(path)
    found = detect(source.infos)
    if found.kind not in LORA_KINDS:
        return Choice(KINDS[found.kind], "expected a LoRA")
    layers = {layer_of(strip(key)) for key in source.infos}
    ranks = sorted({info.shape[0] for key, info in source.infos.items() if _is_down(key) and info.shape})
    words = "motion LoRA" if found.kind == "motion_lora" else "LoRA"
    rank = f" · rank {ranks[0]}" if len(ranks) == 1 else f" · ranks {ranks[0]} to {ranks[-1]}" if ranks else ""
    dtype = str(source.float_dtype()).removeprefix("torch.")
    count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
    return Choice(f"{words} of {count}{rank} · {dtype}")


def _is_down(key: str) -> bool:
    return any(part in key for part in ("lora_down.", "lora_A.", "lora.down.", "lora_linear_layer.down."))


FILE_INPUTS: dict[str, dict[str, Callable[[str], Choice]]] = {
    "UNetMotion_LoadMotionModule": {"motion_module": describe_motion_module},
    "UNetMotion_LoadUNet": {"unet_name": describe_unet, "motion_module": describe_motion_module},
    "UNetMotion_LoadLoRA": {"lora_name": describe_lora},
    "UNetMotion_LoadMotionLoRA": {"lora_name": describe_motion_lora},
}
"""Node -> its inputs that name a file, and what describes such a file."""


def describe_choices(node: str, chosen: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By input, `text` and `problem` of the files that are chosen on a node.

    Raises:
        ValueError: the node has no such input.
    """
    known = FILE_INPUTS.get(node, {})
    for name in chosen:
        if name not in known:
            raise ValueError(f"node {shorten(node)!r} has no input {shorten(name)!r} that names a file.")
    choices = {name: _described(known[name], file) for name, file in chosen.items() if file != NONE}
    pair = [choices.get(name) for name in ("unet_name", "motion_module")]
    if all(choice is not None and choice.problem is None for choice in pair):
        unet, motion = pair
        if unet.channels != motion.channels:
            problem = f"does not fit the UNet: it is for {motion.base or 'another base'}, the UNet is {unet.base}"
            choices["motion_module"] = Choice(motion.text.partition(" · ")[0], problem)
    return {name: {"text": choice.text, "problem": choice.problem} for name, choice in choices.items()}


def _described(describe: Callable[[str], Choice], file: str) -> Choice:
    try:
        return describe(file)
    except (FileFormatError, OSError) as error:
        return Choice(os.path.basename(file), _without_folder(str(error), file))


def _without_folder(sentence: str, file: str) -> str:
    """An error without the path that it begins with: the node shows the file's name already."""
    name = os.path.basename(file)
    start, _, rest = sentence.partition(": ")
    return rest if rest and start.endswith(name) else sentence
