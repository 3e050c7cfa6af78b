"""Loading a motion UNet from an image UNet and a motion module, or from one file that holds both."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..config import convert as unet2d
from ..config.convert import joined_arguments, motion_arguments
from ..config.unet import NORM_SCOPES, SCOPE_FIELDS, UNetMotionConfig, check_norm_scope
from ..files.assign import assign, attach_images, choose_dtype, initialise, read_all
from ..files.checking import Shapes, check_shapes
from ..files.claims import check_claims
from ..files.errors import FileFormatError, name_some, warn_caller
from ..files.names import is_motion, is_table
from ..files.no_gc import loading
from ..files.pretrained import ADAPTER_INPUT
from ..files.reading import Stored
from ..model.inflate import widen_conv_in
from ..model.motion_adapter import MotionAdapter
from ..model.unet_motion_model import UNetMotionModel
from ..values import quoted
from .detect import MOTION_UNET_KINDS, SELF_DESCRIBED, UNET_KINDS
from .infer.absent_blocks import idle_values, present_blocks, warn_partial, without_absent
from .infer.unet import infer_unet, unet_family
from .load_motion_module import adapter_config, load_motion_module, trained_scopes
from .motion_weights import MotionModule
from .opening import Opened, open_model
from .shapes import unet_shapes

EXPECTED = (
    "a Stable Diffusion checkpoint, a UNet with its original or with diffusers' names, or a diffusers UNetMotionModel"
)
FAMILY_WORDS = {
    "sd1": "a Stable Diffusion 1.5 UNet",
    "sd2": "a Stable Diffusion 2 UNet",
    "sdxl": "an SDXL UNet",
    "sdxl-refiner": "an SDXL refiner UNet",
    "custom": "a UNet",
}


def load_unet(
    path: str | Path,
    motion_module: str | Path | MotionModule | MotionAdapter | None = None,
    norm_scope: str | tuple[str, str] = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    operations: Any = None,
    weights: Any = None,
) -> UNetMotionModel:
    """Load a motion UNet; every file is recognised by its content.

    The model is built without values and given the stored tensors, so that nothing is in memory twice: tensors that
    change neither dtype nor device stay mapped to the file. Without motion modules anywhere, new ones are put in whose
    output is zero: the model equals the image UNet.

    Args:
        path: a Stable Diffusion checkpoint or UNet (original names), a diffusers UNet2DConditionModel or
            UNetMotionModel (file or folder), a diffusers pipeline's folder, or an AnimateDiff training checkpoint.
        motion_module: what :func:`load_motion_module` reads, or its result, or an adapter; takes the place of motion
            modules that ``path`` holds itself.
        norm_scope: ``auto`` (what the motion module was trained with), a key of ``NORM_SCOPES``, or
            (``resnet_norm_scope``, ``motion_norm_scope``).
        dtype: of the parameters; default is that of most of the UNet's values.
        device: of the parameters.
        operations, weights: as for ``UNetMotionModel``.

    Raises:
        OSError: nothing is there.
        FileFormatError: damaged, of another kind, incomplete, with extra tensors, with NaN weights, or two files that
            do not belong together.
    """
    with loading():
        base = open_model(path, ("unet",))
        base.require(UNET_KINDS, EXPECTED)
        _warn_beside(base)
        return _build(base, motion_module, norm_scope, dtype, device, operations, weights)


def _build(base: Opened, motion_module, norm_scope, dtype, device, operations, weights) -> UNetMotionModel:
    """The model of an opened file, with the arguments of :func:`load_unet`."""
    spatial = [name for name in base.shapes if not is_motion(name)]
    dtype = choose_dtype(dtype, base.source.float_dtype(base.keys(spatial)), operations is not None, base.path)
    values = base_arguments(base)
    words = FAMILY_WORDS[_family(values)]
    module = None if motion_module is None else _motion(motion_module, dtype, device)
    if module is not None:
        _check_fit(base.path, values, words, module)
        values |= joined_arguments(module.config)
    scopes = resolve_scope(norm_scope, own_scopes(base) if module is None else module.norm_scopes)
    values |= dict(zip(SCOPE_FIELDS, scopes, strict=True))
    model = _empty_model(base.path, values, operations, weights, dtype)

    taken = {} if module is None else module.whole_state()
    adapted = taken.pop("conv_in.weight", None)
    taken.pop("conv_in.bias", None)
    names = spatial if module is not None else base.shapes
    stored = base.stored(name for name in names if name not in taken)
    images = attach_images(model, {name: entries[0] for name, entries in stored.items()}, base.path)
    expected = unet_shapes(model.config) | images
    own_input = {} if adapted is None else {"conv_in.weight": base.shapes.get("conv_in.weight", ())}
    new = _check(base, stored, expected | own_input, taken, words)
    tensors = read_all(stored, dtype, device)
    tensors |= {name: tensor.to(device=device, dtype=dtype) for name, tensor in taken.items()}
    tensors |= (idle_values if _has_motion(base) else initialise)(new, expected, dtype, device)
    if adapted is not None:
        own = tensors["conv_in.weight"]
        tensors["conv_in.weight"] = widen_conv_in(own, adapted, model.config.out_channels)
    model = assign(model, tensors, dtype, device)
    widened = module is None and bool((base.config or {}).get(ADAPTER_INPUT, False))
    # Saved with the motion modules again, as PIA's is.
    model.adapter_conv_in = adapted is not None or widened
    return model


def _has_motion(base: Opened) -> bool:
    return base.found.kind in MOTION_UNET_KINDS


def base_arguments(base: Opened) -> dict[str, Any]:
    """Constructor arguments for an opened UNet, its own motion modules included."""
    if base.found.kind == "unet2d" and base.config is not None:
        return _checked(base, unet2d_arguments(base.config, base.path))
    if base.found.kind in SELF_DESCRIBED and base.config is not None:
        written = dict(base.config)
        config = _guard(base.path, lambda: UNetMotionConfig.from_dict(written))
        return _checked(base, {name: config[name] for name in config.field_names()})
    shapes = base.shapes
    values = infer_unet({k: v for k, v in shapes.items() if not is_motion(k)}, base.path)
    if _has_motion(base):
        motion = {k: v for k, v in shapes.items() if is_motion(k)}
        values |= motion_arguments(adapter_config(base, motion))
    return _checked(base, values)


def _checked(base: Opened, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments that make a configuration which the file's tensors can be."""
    config = _guard(base.path, lambda: UNetMotionConfig(**values))
    check_claims(base.path, config, base.source, base.names)
    return values


def resolve_scope(norm_scope: str | tuple[str, str], auto: tuple[str, str]) -> tuple[str, str]:
    """The two norm scopes that ``norm_scope`` stands for.

    Raises:
        ValueError: no such scope.
    """
    if isinstance(norm_scope, (tuple, list)) and len(norm_scope) == 2:
        for name, scope in zip(SCOPE_FIELDS, norm_scope, strict=True):
            check_norm_scope(name, scope)
        resnet, motion = norm_scope
        return resnet, motion
    if norm_scope == "auto":
        return auto
    if not isinstance(norm_scope, str) or norm_scope not in NORM_SCOPES:
        raise ValueError(f"`norm_scope` is {quoted(norm_scope)}, expected 'auto' or one of {', '.join(NORM_SCOPES)}.")
    return NORM_SCOPES[norm_scope]


def own_scopes(base: Opened) -> tuple[str, str]:
    """The norm scopes that an opened UNet's own motion modules were trained with; diffusers' where it has none."""
    motion = {k: v for k, v in base.shapes.items() if is_motion(k)}
    if not _has_motion(base):
        return NORM_SCOPES["diffusers"]
    with warnings.catch_warnings():  # what is to be said of the configuration has been said
        warnings.simplefilter("ignore")
        config = adapter_config(base, motion)
    return trained_scopes(base, config)[1]


def _motion(given: Any, dtype: torch.dtype | None, device: torch.device | str) -> MotionModule:
    if isinstance(given, MotionAdapter):
        given = MotionModule.from_adapter(given)
    if not isinstance(given, MotionModule):
        return load_motion_module(given, dtype, device)
    return given


def _check_fit(path: Path, values: dict[str, Any], words: str, module: MotionModule) -> None:
    """Raise FileFormatError unless a UNet and a motion module belong together."""
    widths = tuple(values.get("block_out_channels", UNetMotionConfig.block_out_channels))
    unet = f"{path} is {words} (block widths {', '.join(map(str, widths))})"
    if module.config.block_out_channels != widths:
        raise FileFormatError(f"{module.path}: is {module.words}, but {unet}.")
    blocks = len(widths)
    layers, motion_layers = (
        tuple(value) if isinstance(value, (list, tuple)) else (value,) * blocks
        for value in (values.get("layers_per_block", 2), module.config.motion_layers_per_block)
    )
    if layers != motion_layers:
        raise FileFormatError(
            f"{module.path}: has {list(motion_layers)} motion modules per down block, "
            f"but {unet} with {list(layers)} layers."
        )
    mid, motion_mid = values.get("mid_block_layers", 1), module.config.motion_mid_block_layers_per_block
    if module.config.use_motion_mid_block and mid != motion_mid:
        raise FileFormatError(
            f"{module.path}: has {motion_mid} motion modules in the mid block, but {unet} with {mid}."
        )
    groups = values.get("norm_num_groups", 32)
    if groups != module.config.motion_norm_num_groups:
        raise FileFormatError(
            f"{module.path}: has norms of {module.config.motion_norm_num_groups} groups, "
            f"but {unet} with {groups} groups."
        )


def _family(values: dict[str, Any]) -> str:
    defaults = {f: getattr(UNetMotionConfig, f) for f in UNetMotionConfig.field_names()}
    return unet_family(defaults | values)


def _guard(path: Path, build):
    try:
        return build()
    except FileFormatError:
        raise
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{path}: describes a UNet that cannot be built ({error})") from error


def _empty_model(path: Path, values: dict[str, Any], operations: Any, weights: Any, dtype) -> UNetMotionModel:
    config = _guard(path, lambda: UNetMotionConfig(**values))
    return UNetMotionModel.from_config(config, operations=operations, weights=weights, dtype=dtype, device="meta")


def _check(
    base: Opened, stored: Mapping[str, list[Stored]], expected: Shapes, taken: Mapping[str, Any], words: str
) -> list[str]:
    """Names of motion modules that are to get starting values, because no file has any, or none for their block.

    Raises:
        KeyMismatchError: the files do not hold exactly the model's tensors.
    """
    wanted = {n: s for n, s in expected.items() if n not in taken}
    if not taken and _has_motion(base):
        wanted = without_absent(stored, expected, base.found.kind)
    elif not taken:
        wanted = {n: s for n, s in expected.items() if not is_motion(n)}
    check_shapes(base.path, {name: entries[0].shape for name, entries in stored.items()}, wanted, words)
    if not taken and _has_motion(base):
        warn_partial(base.path, present_blocks(stored, expected))
    return [n for n in expected if n not in wanted and n not in taken and not is_table(n)]


def _warn_beside(base: Opened) -> None:
    if base.beside:
        warn_caller(
            f"{base.path}: {len(base.beside)} tensors belong to no known part of a checkpoint and are not used: "
            f"{name_some(base.beside)}."
        )


def unet2d_arguments(config: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """:func:`unet_motion.config.convert.unet2d_arguments` with the file in its errors, which are FileFormatError."""
    try:
        return unet2d.unet2d_arguments(config)
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
