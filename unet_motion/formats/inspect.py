"""What a file is, read from its header."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..config.unet import UNetMotionConfig
from ..files.checking import compare
from ..files.claims import check_floats
from ..files.errors import FileFormatError, check_exists
from ..files.names import is_motion
from ..files.no_gc import loading
from .detect import KINDS, MOTION_KINDS, UNET_KINDS
from .infer.absent_blocks import PARTIAL_KINDS, present_blocks, without_absent
from .infer.unet import unet_family
from .kinds import MOTION_MODULES
from .load_motion_module import adapter_config, trained_scopes
from .load_unet import base_arguments
from .opening import Opened, open_model
from .shapes import adapter_shapes, unet_shapes


@dataclass(frozen=True)
class FileInfo:
    """What a file is.

    Attributes:
        path: the file, or the folder of weights.
        kind: a key of ``unet_motion.formats.detect.KINDS``.
        description: the kind in words.
        version: of a UNet ``sd1``, ``sd2``, ``sdxl``, ``sdxl-refiner`` or ``custom``; of a motion module
            a key of ``unet_motion.formats.kinds.MOTION_MODULES``; None where unknown.
        loadable: whether ``load_unet`` or ``load_motion_module`` reads it.
        frames: rows of the position tables: the longest clip; None without tables.
        norm_scopes: (``resnet_norm_scope``, ``motion_norm_scope``) that ``auto`` stands for; None without motion.
        base: the image model that the motion module was trained on.
        beta_schedule: of its training: ``diffusers`` and ``comfyui`` name, ``start``, ``end``.
        recommended: ``frames``, ``sampler``, ``steps`` and ``guidance`` that its authors used.
        dtype: of most values.
        tensors, parameters: how many, of everything in the file.
        missing, unexpected: names that the kind should have and has not, and the reverse.
        mismatched: names whose shape is another than the rest of the file implies.
        config: the constructor's arguments that were read or inferred.
        problem: why a file of a known kind cannot be loaded, or None.
        motion_blocks: the blocks of the UNet that have motion, where some have none; None where all have.
    """

    path: str
    kind: str
    description: str
    version: str | None = None
    loadable: bool = False
    frames: int | None = None
    norm_scopes: tuple[str, str] | None = None
    base: str | None = None
    beta_schedule: dict[str, Any] | None = None
    recommended: dict[str, Any] | None = None
    dtype: str | None = None
    tensors: int = 0
    parameters: int = 0
    prefix: str = ""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    motion_blocks: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect_file(path: str | Path) -> FileInfo:
    """Tell what a file or folder is; of safetensors only the header is read.

    Raises:
        OSError: nothing is there.
        FileFormatError: it is damaged, or no file of tensors at all.
    """
    with loading():
        return _inspect(open_model(check_exists(path), ("unet", "motion_adapter")))


def _inspect(opened: Opened) -> FileInfo:
    infos = opened.source.infos
    dtype = opened.source.float_dtype(opened.keys(opened.names) or None) or opened.source.float_dtype()
    facts: dict[str, Any] = {
        "path": str(opened.path),
        "kind": opened.found.kind,
        "description": KINDS[opened.found.kind],
        "dtype": str(dtype).removeprefix("torch.") if dtype else None,
        "tensors": len(infos),
        "parameters": sum(math.prod(info.shape) for info in infos.values()),
        "prefix": opened.found.prefix,
    }
    if opened.found.kind not in (*UNET_KINDS, *MOTION_KINDS):
        return FileInfo(**facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            facts |= _motion_facts(opened) if opened.found.kind in MOTION_KINDS else {}
            facts |= _unet_facts(opened) if opened.found.kind in UNET_KINDS else {}
            check_floats(opened.source, opened.keys(opened.names))
        except FileFormatError as error:
            return FileInfo(**{**facts, "problem": str(error), "unexpected": opened.beside})
    facts["unexpected"] = facts["unexpected"] + opened.beside
    sound = not (facts["missing"] or facts["mismatched"] or len(facts["unexpected"]) > len(opened.beside))
    return FileInfo(**facts, loadable=sound)


def _motion_facts(opened: Opened) -> dict[str, Any]:
    shapes = {k: v for k, v in opened.shapes.items() if opened.found.kind not in UNET_KINDS or is_motion(k)}
    config = adapter_config(opened, shapes)
    version, scopes = trained_scopes(opened, config)
    known = MOTION_MODULES[version].of_file(opened.path.name).facts() if version else {}
    expected = adapter_shapes(config)
    return {
        **known,
        "version": version,
        "frames": config.motion_max_seq_length,
        "norm_scopes": scopes,
        "config": config.to_dict(),
        "motion_blocks": present_blocks(shapes, expected) if opened.found.kind in PARTIAL_KINDS else None,
        **_differences(shapes, without_absent(shapes, expected, opened.found.kind)),
    }


def _unet_facts(opened: Opened) -> dict[str, Any]:
    values = base_arguments(opened)
    try:
        config = UNetMotionConfig(**values)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{opened.path}: describes a UNet that cannot be built ({error})") from error
    with_motion = opened.found.kind in MOTION_KINDS
    expected = {k: v for k, v in unet_shapes(config).items() if with_motion or not is_motion(k)}
    present = without_absent(opened.shapes, expected, opened.found.kind)
    facts = {"config": config.to_dict(), **_differences(opened.shapes, present)}
    if not with_motion:
        facts["version"] = unet_family({name: config[name] for name in config.field_names()})
    return facts


def _differences(found, expected) -> dict[str, list[str]]:
    missing, unexpected, mismatched = compare(found, expected)
    return {"missing": missing, "unexpected": unexpected, "mismatched": mismatched}
