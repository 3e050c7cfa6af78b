"""Files of weights in another form: the same tensors, bit for bit, under other names or in a folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.adapter import MotionAdapterConfig
from ..config.unet import SCOPE_FIELDS, UNetMotionConfig
from ..files.checking import check_shapes
from ..files.claims import check_floats
from ..files.description import ADAPTER_KEY, read_description
from ..files.errors import FileFormatError, name_some
from ..files.names import is_image_layer, is_motion
from ..files.position_tables import check_same_tables
from ..files.saving import write_folder
from ..files.writing import write_safetensors
from ..values import quoted
from .computed import check_same, computed_by, header_for, opened_folder
from .detect import KINDS, MOTION_KINDS, UNET_KINDS
from .infer.absent_blocks import name_blocks, present_blocks, without_absent
from .load_motion_module import adapter_config, trained_scopes
from .load_unet import base_arguments
from .names.animatediff import diffusers_to_animatediff
from .names.ldm import diffusers_to_ldm
from .opening import Opened, open_model
from .shapes import adapter_shapes, unet_shapes

FORMS = ("original", "hotshot", "diffusers", "folder")
_MOTION_NAME = re.compile(r"\.motion_modules\.(\d+)\.temporal_transformer\.")


def convert(path: str | Path, out: str | Path, form: str, prefix: str = "") -> list[str]:
    """Write the UNet or the motion modules of a file in another form; no value and no dtype changes.

    Args:
        path: what ``load_unet`` or ``load_motion_module`` reads.
        out: a file that ends in ``.safetensors``, or a folder for the form ``folder``.
        form: ``original`` (AnimateDiff's names of motion modules, Stable Diffusion's of image UNets), ``hotshot``
            (HotshotXL's names of motion modules), ``diffusers`` (one file with its names), or ``folder`` (diffusers'
            folder with ``config.json``).
        prefix: put before every name of a single file, such as ``model.diffusion_model.``.

    Returns:
        Names in the file that are no part of the UNet or the motion modules, and were left out.

    Raises:
        OSError: nothing is there, or ``out`` cannot be written.
        FileFormatError: the file cannot be converted.
        ValueError: no such form, or a name of another ending.
    """
    if form not in FORMS:
        raise ValueError(f"form is {quoted(form)}, expected one of {', '.join(FORMS)}.")
    out = Path(out).expanduser()
    if form != "folder" and out.suffix != ".safetensors":
        raise ValueError(f"{out}: expected a file name that ends in .safetensors for the form {form}.")
    opened = open_model(path, ("motion_adapter", "unet"))
    opened.require((*UNET_KINDS, *MOTION_KINDS), "a UNet or motion modules")
    _check_complete(opened, form)
    state, wanted = _tensors(opened), computed_by(opened)
    if form == "folder":
        config = _config(opened)
        check_same(opened.path, lambda: opened_folder(out, state, config), wanted, f"the form {form}")
        write_folder(out, config, state)
    else:
        named = {prefix + name: tensor for name, tensor in _named(opened, state, form).items()}
        said, kept = _description(opened, form), _is_kept(opened, form)
        header = header_for(out, named, wanted, said, f"the form {form}", kept, opened.path)
        write_safetensors({name: tensor.contiguous() for name, tensor in named.items()}, out, header)
    used = {key for keys in opened.names.values() for key in keys}
    return [key for key in opened.source.infos if key not in used]


def _description(opened: Opened, form: str) -> dict[str, Any] | None:
    """What a header can say of the file: its own description, with what its form keeps its configuration in."""
    if form == "original" and opened.found.kind not in MOTION_KINDS:
        return None
    own = read_description(opened.source)
    others = {name: part for name, part in own.items() if name not in ("unet", ADAPTER_KEY)}
    return {**others, _part(opened): _config(opened)}


def _is_kept(opened: Opened, form: str) -> bool:
    """Whether the header is to speak although the tensors would do."""
    # Of modules whose names no longer tell which they are.
    renamed = opened.found.kind == "motion_module" and form == "diffusers"
    return renamed or bool(read_description(opened.source).keys() - {"unet", ADAPTER_KEY})


def _part(opened: Opened) -> str:
    return ADAPTER_KEY if opened.found.kind in ("motion_module", "motion_adapter") else "unet"


def _tensors(opened: Opened) -> dict[str, Tensor]:
    """Every tensor as it is stored, by diffusers' names."""
    state = {}
    for name, keys in opened.names.items():
        tensors = [opened.source.read(key, check=False) for key in keys]
        check_same_tables(opened.path, keys, tensors)
        # Two names of one storage cannot be saved; a clone of the mapped file cannot change under a save over it.
        state[name] = tensors[0].clone()
    return state


def _check_complete(opened: Opened, form: str) -> None:
    """Raise FileFormatError unless all tensors are there; whole blocks may be left out where the form can say so."""
    shapes = {k: v for k, v in opened.shapes.items() if not is_image_layer(k)}
    if opened.found.kind in UNET_KINDS:
        expected = unet_shapes(_unet_config(opened))
        if opened.found.kind not in MOTION_KINDS:
            expected = {k: v for k, v in expected.items() if not is_motion(k)}
    else:
        expected = adapter_shapes(_adapter(opened))
    wanted = without_absent(shapes, expected, opened.found.kind)
    check_floats(opened.source, opened.keys(opened.names))
    check_shapes(opened.path, shapes, wanted, KINDS[opened.found.kind])
    blocks = present_blocks(shapes, expected)
    if blocks is not None and (form == "folder" or opened.found.kind in UNET_KINDS and form == "diffusers"):
        raise FileFormatError(
            f"{opened.path}: has motion modules in {name_blocks(blocks)} only, expected them in all blocks for the "
            f"form {form}."
        )


def _adapter(opened: Opened):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tables that are computed: they are not written
        return adapter_config(opened, opened.shapes)


def _unet_config(opened: Opened) -> UNetMotionConfig:
    return UNetMotionConfig(**base_arguments(opened))


def _named(opened: Opened, state: Mapping[str, Tensor], form: str) -> dict[str, Tensor]:
    if form == "diffusers":
        return dict(state)
    has_motion = opened.found.kind in MOTION_KINDS
    if form == "original" and not has_motion:
        return diffusers_to_ldm(state, _unet_config(opened))
    if not has_motion:
        raise FileFormatError(
            f"{opened.path}: is {KINDS[opened.found.kind]}, expected motion modules for HotshotXL's form."
        )
    # Two names of one table: each gets a storage of its own.
    named = diffusers_to_animatediff(state)
    named = {name: tensor.clone() if name.endswith(".pe") else tensor for name, tensor in named.items()}
    if form == "hotshot":
        named = {_MOTION_NAME.sub(r".temporal_attentions.\1.", k): v for k, v in named.items()}
        named = {k.replace(".pos_encoder.pe", ".pos_encoder.positional_encoding"): v for k, v in named.items()}
    return named


def _config(opened: Opened) -> dict[str, Any]:
    if opened.config is not None:
        return {"_class_name": _class_of(opened), **opened.config}
    if opened.found.kind in ("motion_module", "motion_adapter"):
        adapter = _adapter(opened)
        scopes = dict(zip(SCOPE_FIELDS, trained_scopes(opened, adapter)[1], strict=True))
        return {"_class_name": adapter.class_name, **adapter.to_dict(), **scopes}
    config = _unet_config(opened)
    if opened.found.kind in MOTION_KINDS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            motion = {k: v for k, v in opened.shapes.items() if is_motion(k)}
            trained = trained_scopes(opened, adapter_config(opened, motion))[1]
        return {"_class_name": config.class_name, **config.to_dict(), **dict(zip(SCOPE_FIELDS, trained, strict=True))}
    return _unet2d_config(config)


def _class_of(opened: Opened) -> str:
    if opened.found.kind in ("motion_module", "motion_adapter"):
        return MotionAdapterConfig.class_name
    return UNetMotionConfig.class_name if opened.found.kind in MOTION_KINDS else "UNet2DConditionModel"


def _unet2d_config(config: UNetMotionConfig) -> dict[str, Any]:
    """The ``config.json`` of diffusers' UNet2DConditionModel for a motion UNet's image layers."""
    names = (
        "in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim",
        "norm_num_groups", "norm_eps", "act_fn", "transformer_layers_per_block", "reverse_transformer_layers_per_block",
        "use_linear_projection", "time_cond_proj_dim", "addition_embed_type", "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
    )  # fmt: skip
    values = config.to_dict()
    kept = {name: values[name] for name in names if values[name] is not None}
    for name in ("down_block_types", "up_block_types"):
        kept[name] = [kind.replace("Motion", "2D") for kind in values[name]]
    return {"_class_name": "UNet2DConditionModel", **kept, "attention_head_dim": values["num_attention_heads"]}


def name_left_out(path: str | Path, left: list[str]) -> str:
    """One sentence about tensors that were left out."""
    return f"{path}: {len(left)} tensors of other parts are left out: {name_some(left)}."
