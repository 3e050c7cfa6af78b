"""``from_pretrained`` and ``save_pretrained`` of the models: diffusers' folders, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..config.checks import default_fields
from ..config.unet import SCOPE_FIELDS
from ..values import quoted
from .assign import assign, attach_images, choose_dtype, initialise, read_all
from .checking import Shapes, compare, shapes_of
from .claims import check_claims
from .errors import FileFormatError, KeyMismatchError, WrongKindError, name_some, warn_caller
from .folders import PICKLE, SAFETENSORS, Folder, open_folder
from .names import is_table
from .no_gc import loading
from .reading import Stored, TensorSource
from .saving import write_folder

ADAPTER_INPUT = "_adapter_conv_in"
"""Entry of a UNet's ``config.json``, its ``adapter_conv_in``: the input layer came with a motion adapter (PIA)."""

_DOWNLOADING = frozenset(
    (
        "cache_dir",
        "force_download",
        "local_files_only",
        "low_cpu_mem_usage",
        "proxies",
        "revision",
        "token",
        "disable_mmap",
    )
)
"""Arguments of diffusers that say how to download or in how much memory to load; they change nothing here."""


def save_pretrained(
    model: Any,
    folder: str | Path,
    *,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
    safe_serialization: bool = True,
    is_main_process: bool = True,
    extra_config: Mapping[str, Any] | None = None,
    push_to_hub: bool = False,
) -> None:
    """Write a model's ``config.json`` and weights; diffusers reads the folder too.

    Args:
        folder: created if it does not exist; the weights of an earlier save of this variant are replaced.
        variant: a word in the file names, e.g. ``fp16``; nothing is cast.
        max_shard_size: of one file, in bytes or as ``5GB``; more than that is split, with an index.
        safe_serialization: safetensors rather than a pickle (``.bin``).
        is_main_process: false writes nothing (training on several processes).
        extra_config: more entries for ``config.json``.
        push_to_hub: only False, as in calls that are written for diffusers.

    Raises:
        OSError: the folder cannot be written; what was in it is as it was.
        ValueError: asked to push to a hub.
    """
    if push_to_hub:
        raise ValueError("`push_to_hub` is True, expected False: this class writes to folders only.")
    if not is_main_process:
        return
    config = {**model.config.to_dict(), "_class_name": model.config_class.class_name, **(extra_config or {})}
    if getattr(model, "adapter_conv_in", False):
        config[ADAPTER_INPUT] = True
    write_folder(
        Path(folder).expanduser(), config, model.state_dict(), variant=variant, max_shard_size=max_shard_size,
        safe_serialization=safe_serialization,
    )  # fmt: skip


def from_pretrained(
    cls: Any,
    path: str | Path,
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    use_safetensors: bool | None = None,
    output_loading_info: bool = False,
    allow_missing: bool = False,
    ignore_mismatched_sizes: bool = False,
    operations: Any = None,
    weights: Any = None,
    **changes: Any,
) -> Any:
    """Read a model from a local folder that this project or diffusers wrote; it is in evaluation mode.

    Position tables that the files leave out are computed in float32 and then cast. Tensors that the model does not
    have are warned about by name.

    Args:
        cls: ``UNetMotionModel`` or ``MotionAdapter``.
        path: the folder; ``subfolder`` of it if given.
        variant: reads ``diffusion_pytorch_model.<variant>.safetensors``.
        dtype, torch_dtype: of the parameters (two names of one thing); ``auto`` is the files' own, in which they stay
            mapped; the default is torch's default dtype, as in diffusers.
        use_safetensors: true or false reads that format only; default is safetensors, then ``.bin``.
        output_loading_info: also return the names of ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
        allow_missing: give tensors that the files lack starting values, with a warning, instead of an error.
        ignore_mismatched_sizes: the same for tensors of another shape.
        operations, weights: as for the constructor.
        changes: fields of the configuration to override; diffusers' arguments about downloading do nothing.

    Raises:
        OSError: no such folder, or a file of it is missing.
        FileFormatError: damaged files, another class, tensors missing, of another shape or with NaN.
    """
    with loading():
        folder = open_folder(path, subfolder)
        config = _config(cls, folder, changes)
        suffixes = {None: (SAFETENSORS, PICKLE), True: (SAFETENSORS,), False: (PICKLE,)}[use_safetensors]
        source = folder.open(variant, suffixes)
        check_claims(folder.path, config, source, source.infos)
        dtype = _dtype(dtype if dtype is not None else torch_dtype)
        dtype = choose_dtype(dtype, source.float_dtype(), operations is not None, folder.path)
        factory = {"operations": operations, "dtype": dtype, "device": "meta"}
        model = cls.from_config(config, **factory, **({"weights": weights} if weights is not None else {}))
        stored = {key: Stored(source, key) for key in source.infos}
        expected = shapes_of(cls, config) | attach_images(model, stored, folder.path)
        info = _compare(f"{cls.__name__} of {folder.path}", source, expected, allow_missing, ignore_mismatched_sizes)
        other = [name for name, *_ in info["mismatched_keys"]]
        unused = {*info["unexpected_keys"], *other}
        wanted = {key: entry for key, entry in stored.items() if key not in unused}
        tensors = read_all(wanted, dtype, device)
        tensors |= initialise([n for n in info["missing_keys"] + other if not is_table(n)], expected, dtype, device)
        model = assign(model, tensors, dtype, device)
        if folder.config.get(ADAPTER_INPUT):
            model.adapter_conv_in = True
        return (model, info) if output_loading_info else model


def _config(cls: Any, folder: Folder, changes: Mapping[str, Any]):
    config_class = cls.config_class
    if folder.class_name not in (None, config_class.class_name):
        hint = " (load_unet reads it)" if folder.class_name == "UNet2DConditionModel" else ""
        raise WrongKindError(
            f"{folder.path}: its config.json is that of a {folder.class_name}, "
            f"expected {config_class.class_name}{hint}."
        )
    changes = {name: value for name, value in changes.items() if name not in _DOWNLOADING}
    unknown = sorted(changes.keys() - set(config_class.field_names()))
    if unknown:
        raise TypeError(f"{cls.__name__}.from_pretrained() has no argument {name_some(unknown)}.")
    values = dict(folder.config)
    if not set(SCOPE_FIELDS) & set(config_class.field_names()):
        values = {name: value for name, value in values.items() if name not in SCOPE_FIELDS}
    try:
        defaults = default_fields(values)
        values.pop("_use_default_values", None)
        values = {name: value for name, value in values.items() if name not in defaults} | changes
        return config_class.from_dict(values)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{folder.path}: config.json describes no {config_class.class_name} ({error})") from error


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype or torch.get_default_dtype()
    if dtype == "auto":
        return None
    named = getattr(torch, str(dtype), None)
    if not isinstance(named, torch.dtype):
        raise ValueError(f"`dtype` is {quoted(dtype)}, expected a torch.dtype or 'auto'.")
    return named


def _compare(
    words: str, source: TensorSource, expected: Shapes, allow_missing: bool, ignore_mismatched: bool
) -> dict[str, list]:
    """The loading info; raises or warns as the arguments say."""
    found = {key: info.shape for key, info in source.infos.items()}
    missing, unexpected, mismatched = compare(found, expected)
    if mismatched and not ignore_mismatched:
        key = mismatched[0]
        raise KeyMismatchError(
            f"{source.path}: {len(mismatched)} tensors have another shape than its config.json says: {key} is "
            f"{list(found[key])}, expected {list(expected[key])}."
        )
    if missing and not allow_missing:
        raise KeyMismatchError(f"{source.path}: {len(missing)} tensors of the model are missing: {name_some(missing)}.")
    for names, what in (
        (missing + mismatched, "get starting values, since the files lack them or have another shape"),
        (unexpected, "are in the files but not in the model, and are not used"),
    ):
        if names:
            warn_caller(f"{words}: {len(names)} tensors {what}: {name_some(names, 10)}.")
    return {
        "missing_keys": missing,
        "unexpected_keys": unexpected,
        "mismatched_keys": [(key, tuple(found[key]), tuple(expected[key])) for key in mismatched],
        "error_msgs": [],
    }
