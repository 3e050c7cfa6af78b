"""Loading motion modules: AnimateDiff's own files and diffusers' MotionAdapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..config.adapter import MotionAdapterConfig
from ..config.convert import adapter_of
from ..config.unet import NORM_SCOPES, SCOPE_FIELDS, UNetMotionConfig, check_norm_scope
from ..files.assign import choose_dtype, read_all
from ..files.checking import check_shapes
from ..files.claims import check_claims
from ..files.errors import FileFormatError, name_some, warn_caller
from ..files.names import is_motion, is_table
from ..files.no_gc import loading
from ..ops.sinusoids import sinusoidal_table
from .detect import KINDS, MOTION_KINDS, MOTION_UNET_KINDS, SELF_DESCRIBED
from .infer.absent_blocks import present_blocks, warn_partial, without_absent
from .infer.adapter import DEFAULT_FRAMES, LCM_FRAMES, infer_adapter, table_rows
from .kinds import MOTION_MODULES, recognise
from .motion_weights import MotionModule, published_version, with_positions
from .opening import Opened, open_model
from .positions import UNCHANGED, PositionOptions
from .shapes import adapter_shapes

EXPECTED = "an AnimateDiff motion module or a diffusers MotionAdapter"


def load_motion_module(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    positions: PositionOptions = UNCHANGED,
) -> MotionModule:
    """Load the motion modules in a file or folder, whatever it is called.

    Every kind of ``MOTION_MODULES`` (``module.`` or ``unet.`` before the names or not), a diffusers
    MotionAdapter as file or folder, and the motion modules of a UNetMotionModel or of an AnimateDiff training
    checkpoint. Files that hold whole blocks of a motion module only, such as the way down, are read too, with a
    warning that names the blocks; the others add no motion.

    The norm scopes are those of training: an adapter with the structure and widths of a published module holds that
    module's converted weights and gets its scopes; any other adapter was trained with diffusers' unless its
    ``config.json`` says otherwise.

    Args:
        path: file or folder; tensors stay mapped to it where neither dtype nor device change.
        dtype: of the result; default is the file's.
        positions: changes of the position tables.

    Raises:
        FileNotFoundError: nothing is there.
        FileFormatError: damaged, of another kind, a block incomplete, with extra tensors, or with NaN weights.
    """
    with loading():
        opened = open_model(path, ("motion_adapter", "unet"))
        opened.require(MOTION_KINDS, EXPECTED)
        return with_positions(motion_part(opened, dtype, device), positions)


def motion_part(opened: Opened, dtype: torch.dtype | None, device: torch.device | str) -> MotionModule:
    """The motion modules of an opened file that has some."""
    whole_unet = opened.found.kind in MOTION_UNET_KINDS
    shapes = {k: v for k, v in opened.shapes.items() if not whole_unet or is_motion(k)}
    left = [key for name, keys in opened.names.items() if name not in shapes for key in keys]
    if left or opened.beside:
        _warn_unused(opened, left)
    config = adapter_config(opened, shapes)
    expected = without_absent(shapes, adapter_shapes(config), opened.found.kind)
    check_shapes(opened.path, shapes, expected, f"its motion module ({_summary(config)})")
    warn_partial(opened.path, present_blocks(shapes, adapter_shapes(config)))
    stored = opened.stored(shapes)
    dtype = choose_dtype(dtype, opened.source.float_dtype(opened.keys(shapes)), False, opened.path)
    tensors = read_all(stored, dtype, device)
    version, scopes = trained_scopes(opened, config)
    kind = version if opened.found.kind in ("motion_module", "animatediff_unet") else "diffusers"
    module = MotionModule(kind or "diffusers", version, tensors, config, *scopes, opened.path)
    return dataclasses.replace(module, state_dict=_with_tables(tensors, expected, dtype, device))


def adapter_config(opened: Opened, shapes: Mapping[str, tuple[int, ...]]) -> MotionAdapterConfig:
    """The adapter's configuration: from ``config.json`` if there is one, else from the shapes.

    Raises:
        FileFormatError: the shapes or the ``config.json`` describe no motion module, or one that the tensors cannot be.
    """
    try:
        if opened.found.kind in ("motion_adapter", "motion_module") and opened.config is not None:
            given = {k: v for k, v in opened.config.items() if k not in SCOPE_FIELDS}
            return _checked(opened, MotionAdapterConfig.from_dict(given))
        if opened.found.kind in SELF_DESCRIBED and opened.config is not None:
            return _checked(opened, adapter_of(UNetMotionConfig.from_dict(dict(opened.config))))
        frames = None
        if table_rows(shapes, opened.path) is None:
            frames = LCM_FRAMES if opened.found.kind == "motion_module" else DEFAULT_FRAMES
            warn_caller(f"{opened.path}: holds no position tables, sinusoidal ones of {frames} rows are used.")
        return _checked(opened, infer_adapter(shapes, opened.path, frames))
    except FileFormatError:
        raise
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{opened.path}: describes a motion module that cannot be built ({error})") from error


def _checked(opened: Opened, config: MotionAdapterConfig) -> MotionAdapterConfig:
    check_claims(opened.path, config, opened.source, opened.names)
    return config


def trained_scopes(opened: Opened, config: MotionAdapterConfig) -> tuple[str | None, tuple[str, str]]:
    """The published version, and the norm scopes that the module was trained with."""
    original = opened.found.kind in ("motion_module", "animatediff_unet")
    if original and opened.config is None:
        has_tables = any(is_table(name) for name in opened.names)
        kind = recognise(config, has_tables, ".temporal_attentions." in opened.found.evidence, opened.path.name)
        return (kind.name, kind.norm_scopes) if kind else (None, NORM_SCOPES["v2"])
    version = published_version(config, opened.path.name)
    resnet, motion = MOTION_MODULES[version].norm_scopes if version else NORM_SCOPES["diffusers"]
    given = opened.config or {}
    scopes = given.get("resnet_norm_scope", resnet), given.get("motion_norm_scope", motion)
    try:
        for name, scope in zip(SCOPE_FIELDS, scopes, strict=True):
            check_norm_scope(name, scope)
    except ValueError as error:
        raise FileFormatError(f"{opened.path}: {error}") from None
    return version, scopes


def _with_tables(
    read: Mapping[str, torch.Tensor], expected: Mapping[str, Sequence[int]], dtype: torch.dtype | None, device
) -> dict[str, torch.Tensor]:
    """The tensors with the tables that the file leaves out, in the order of ``MotionAdapter.state_dict()``."""
    tensors = {}
    for name, shape in expected.items():
        tensor = read.get(name)
        if tensor is None:
            tensor = sinusoidal_table(shape[1], shape[2]).to(device=device, dtype=dtype)
        tensors[name] = tensor
    return tensors


def _summary(config: MotionAdapterConfig) -> str:
    mid = "with" if config.use_motion_mid_block else "without"
    widths = ", ".join(map(str, config.block_out_channels))
    return f"block widths {widths}; {config.motion_max_seq_length} frames; {mid} mid block"


def _warn_unused(opened: Opened, left: list[str]) -> None:
    parts = []
    if left:
        parts.append(f"{len(left)} tensors of the UNet ({name_some(left, 2)})")
    if opened.beside:
        parts.append(f"{len(opened.beside)} tensors that belong to nothing known ({name_some(opened.beside)})")
    warn_caller(f"{opened.path}: {KINDS[opened.found.kind]}; not used for the motion module: {' and '.join(parts)}.")
