"""What a file of weights computes beside its tensors, and headers that make a file compute it again.

Attention heads, groups and scopes of the norms and the like leave no trace in tensors. Readers take them from a
description where a file has one, else from what published models have: so before a file is written, it is read as it
would be there, and gets a description where that makes a difference.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.adapter import MotionAdapterConfig
from ..config.unet import SCOPE_FIELDS, UNetMotionConfig
from ..files.description import DESCRIPTION_KEY
from ..files.errors import FileFormatError
from ..files.reading import OpenFile, TensorSource
from ..files.safetensors_header import TensorInfo
from .detect import MOTION_KINDS, UNET_KINDS
from .load_motion_module import adapter_config, trained_scopes
from .load_unet import base_arguments, own_scopes
from .opening import Opened, open_source

ADAPTER_INPUT = "_adapter_conv_in"
PLAIN = {"format": "pt"}
_PLANNED = (
    "block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "cross_attention_dim",
    "transformer_layers_per_block", "reverse_transformer_layers_per_block", "temporal_transformer_layers_per_block",
    "reverse_temporal_transformer_layers_per_block", "transformer_layers_per_mid_block",
    "temporal_transformer_layers_per_mid_block", "num_attention_heads", "motion_num_attention_heads",
    "reverse_motion_num_attention_heads", "use_motion_mid_block", "mid_block_layers",
)  # fmt: skip
"""Fields that a UNet's plans spell out per layer, so that 2 and (2, 2) are one."""


def computed_by(opened: Opened) -> dict[str, Any]:
    """What decides, beside the tensors, what the loaded file computes: fields and their values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if opened.found.kind in UNET_KINDS:
            scopes = dict(zip(SCOPE_FIELDS, own_scopes(opened), strict=True))
            config = _built(opened, lambda: UNetMotionConfig(**{**base_arguments(opened), **scopes}))
            return {**_of_unet(config), ADAPTER_INPUT: bool((opened.config or {}).get(ADAPTER_INPUT))}
        motion = adapter_config(opened, opened.shapes)
        return of_adapter(motion, trained_scopes(opened, motion)[1])


def of_adapter(config: MotionAdapterConfig, scopes: tuple[str, str]) -> dict[str, Any]:
    """:func:`computed_by` of motion modules."""
    return {
        "block_out_channels": config.block_out_channels,
        "motion layers (width, heads, depth)": (config.down_layers(), config.up_layers()),
        "motion layers of the mid block (heads, depth)": (
            (config.mid_heads(), config.mid_depths()) if config.use_motion_mid_block else None
        ),
        "motion_norm_num_groups": config.motion_norm_num_groups,
        "motion_max_seq_length": config.motion_max_seq_length,
        "conv_in_channels": config.conv_in_channels,
        "use_image_encoder": config.use_image_encoder,
        **dict(zip(SCOPE_FIELDS, scopes, strict=True)),
    }


def _of_unet(config: UNetMotionConfig) -> dict[str, Any]:
    plans = []
    for plan in (*config.down_plans(), *config.up_plans()):
        heads: dict[str, Any] = {} if plan.cross_attention else {"heads": None, "cross_attention_dim": None}
        plans.append(dataclasses.astuple(dataclasses.replace(plan, **heads)))
    skipped = {*_PLANNED, "sample_size"}
    if config.addition_embed_type is None:
        skipped |= {"addition_time_embed_dim", "projection_class_embeddings_input_dim"}
    facts = {name: config[name] for name in config.field_names() if name not in skipped}
    has_motion_in_mid = bool(config.mid_motion_depths())
    return {
        **facts,
        "act_fn": "silu" if config.act_fn == "swish" else config.act_fn,
        "num_attention_heads and other settings of the blocks": tuple(plans),
        "num_attention_heads and other settings of the mid block": (
            config.mid_depths(), config.last("num_attention_heads"), config.last("cross_attention_dim"),
            config.mid_motion_depths(), config.mid_motion_heads() if has_motion_in_mid else None,
        ),
    }  # fmt: skip


def header_for(
    path: Path,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Any],
    description: Mapping[str, Any] | None,
    form: str,
    always: bool = False,
    source: Path | None = None,
) -> dict[str, str]:
    """The header with which tensors, written to a path, compute what they should.

    Args:
        path: where the file is to be; a ``config.json`` beside it is looked at, as readers do.
        tensors: by the names of the file.
        wanted: what :func:`computed_by` gave of the source.
        description: what the header can say; None where no reader of such a file looks for one.
        form: what to call it in an error.
        always: write the description also where the file is right without it.
        source: the file that the tensors are from, which errors name; without one they name the path.

    Raises:
        FileFormatError: a file of this form cannot say it.
    """
    headers = [] if description is None else [{DESCRIPTION_KEY: json.dumps(description, sort_keys=True)}]
    headers = headers if always and headers else [PLAIN, *headers]
    for header in headers[:-1]:
        try:
            if computed_by(_reopened(path, tensors, header)) == wanted:
                return header
        except FileFormatError:  # without a description; the last header has one
            continue
    check_same(source or path, lambda: _reopened(path, tensors, headers[-1]), wanted, form)
    return headers[-1]


def check_same(source: Path, reopen: Callable[[], Opened], wanted: Mapping[str, Any], form: str) -> None:
    """Raise FileFormatError, with the first setting that would change, unless a file computes what it should.

    Args:
        source: what errors name.
        reopen: opens the file as readers will see it.
    """
    try:
        found = computed_by(reopen())
    except FileFormatError as error:
        raise FileFormatError(f"{source}: cannot be written in {form}, whose readers would say: {error}") from error
    changed = [name for name in wanted if found.get(name) != wanted[name]]
    if changed:
        more = f" and {len(changed) - 1} more settings" if len(changed) > 1 else ""
        raise FileFormatError(
            f"{source}: {form} cannot say `{changed[0]}`{more} of this model, and would be read with "
            f"{_cut(found.get(changed[0]))}, expected {_cut(wanted[changed[0]])}: write another form."
        )


def opened_folder(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Opened:
    """A folder of diffusers as readers will see it."""
    return open_source(path, _source(path, tensors, PLAIN), config)


def _reopened(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Opened:
    opened = open_source(path, _source(path, tensors, header))
    opened.require((*UNET_KINDS, *MOTION_KINDS), "names under which a UNet or motion modules are recognised")
    return opened


def _source(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> TensorSource:
    return TensorSource(path, [_Unwritten(tensors, header)])


class _Unwritten(OpenFile):
    """A file that is not there yet, as a :class:`TensorSource` takes it."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        self.tensors, self.metadata = tensors, metadata
        self.infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}

    def read(self, key: str) -> Tensor:
        return self.tensors[key]


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _built(opened: Opened, build: Any) -> UNetMotionConfig:
    try:
        return build()
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{opened.path}: describes a UNet that cannot be built ({error}).") from error
