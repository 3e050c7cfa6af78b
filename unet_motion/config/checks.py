"""The type and the range of each field of a configuration, checked before anything is computed from it.

The ranges are far above every model that exists. They are there since a configuration comes out of a file, and what it
says would be built: a layer costs time even where it has no values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

MAX_BLOCKS = 16
_WIDTH, _TEXT = 2**16, 2**20
_MOST = {
    "in_channels": 4096,
    "out_channels": 4096,
    "conv_in_channels": 4096,
    "downsample_padding": 16,
    "layers_per_block": 64,
    "motion_layers_per_block": 64,
    "mid_block_layers": 64,
    "motion_mid_block_layers_per_block": 64,
    "transformer_layers_per_block": 256,
    "reverse_transformer_layers_per_block": 256,
    "transformer_layers_per_mid_block": 256,
    "temporal_transformer_layers_per_block": 256,
    "reverse_temporal_transformer_layers_per_block": 256,
    "temporal_transformer_layers_per_mid_block": 256,
    "motion_transformer_layers_per_block": 256,
    "reverse_motion_transformer_layers_per_block": 256,
    "motion_transformer_layers_per_mid_block": 256,
    "cross_attention_dim": _TEXT,
    "encoder_hid_dim": _TEXT,
    "addition_time_embed_dim": _TEXT,
    "projection_class_embeddings_input_dim": _TEXT,
    "time_cond_proj_dim": _TEXT,
    "motion_max_seq_length": _TEXT,
}
"""The largest whole number of a field; 65536 for all others."""
_LEAST_0 = {
    "downsample_padding", "mid_block_layers", "motion_mid_block_layers_per_block", "sample_size",
    *(name for name in _MOST if "transformer" in name),
}  # fmt: skip
_FLOATS = {"norm_eps": (0.0, 1.0), "mid_block_scale_factor": (1e-6, 1e6)}


def check_fields(config: Any) -> None:
    """Check every field of a configuration by the type it is declared with.

    Raises:
        ValueError: another type, or a number out of range, with the field's name and value.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        kind, _, optional = field.type.partition(" | ")
        if value is None and optional:
            continue
        if kind == "int" and field.name != "sample_size":
            check_whole(field.name, value)
        elif kind in ("PerBlock", "int", "tuple[int, ...]"):
            if kind == "tuple[int, ...]" and not isinstance(value, (list, tuple)):
                raise ValueError(f"`{field.name}` is {_short(value)}, expected a list of whole numbers.")
            _check_numbers(field.name, value)
        elif kind == "tuple[str, ...]":
            _check_texts(field.name, value)
        elif kind == "float":
            _check_float(field.name, value)
        elif not isinstance(value, {"str": str, "bool": bool}[kind]):
            words = {"str": "a text", "bool": "True or False"}[kind]
            raise ValueError(f"`{field.name}` is {_short(value)}, expected {words}.")


def default_fields(config: Mapping[str, Any]) -> set[str]:
    """The fields that a ``config.json`` leaves at their defaults, whatever it says of them: ``_use_default_values``.

    Raises:
        ValueError: that is no list of names.
    """
    names = config.get("_use_default_values") or ()
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`_use_default_values` is {_short(names)}, expected a list of names.")
    return set(names)


def check_whole(name: str, value: Any, whole: Any = None) -> None:
    """Raise ValueError unless a field's value is a whole number in its range."""
    least, most = int(name not in _LEAST_0), _MOST.get(name, _WIDTH)
    number = isinstance(value, int) and not isinstance(value, bool)
    if number and least <= value <= most:
        return
    bound = f"at most {most}" if number and value > most else f"at least {least}"
    inside = "" if whole is None else f" in {_short(whole)}"
    raise ValueError(f"`{name}` must hold whole numbers of {bound}, found {_short(value)}{inside}.")


def _check_numbers(name: str, value: Any, whole: Any = None, depth: int = 0) -> None:
    """A whole number, a list of them for the blocks, or in it a list for the layers of a block."""
    if not isinstance(value, (list, tuple)):
        check_whole(name, value, whole)
        return
    if depth == 2 or len(value) > (MAX_BLOCKS, 65)[depth]:
        raise ValueError(f"`{name}` is {_short(whole or value)}, expected at most {MAX_BLOCKS} entries, one per block.")
    for entry in value:
        _check_numbers(name, entry, value if whole is None else whole, depth + 1)


def _check_texts(name: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_BLOCKS or not all(isinstance(v, str) for v in value):
        raise ValueError(f"`{name}` is {_short(value)}, expected a list of at most {MAX_BLOCKS} names.")


def _check_float(name: str, value: Any) -> None:
    least, most = _FLOATS[name]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ValueError(f"`{name}` is {_short(value)}, expected a number from {least:g} to {most:g}.")


def _short(value: Any) -> str:
    """The value's representation, made of its beginning where it is long."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 70 digits"
    if isinstance(value, str):
        value = value[:60]
    elif isinstance(value, Iterable) and not isinstance(value, (list, tuple)):
        return f"a {type(value).__name__}"
    if isinstance(value, (list, tuple)):
        ends = "()" if isinstance(value, tuple) else "[]"
        shown = [
            _short(v) if not isinstance(v, (list, tuple)) else repr(v) if _is_small(v) else "..." for v in value[:16]
        ]
        comma = "," if len(value) == 1 and ends == "()" else ", ..." if len(value) > 16 else ""
        return f"{ends[0]}{', '.join(shown)}{comma}{ends[1]}"
    return ascii(value) if isinstance(value, str) else repr(value)


def _is_small(values: Any) -> bool:
    return len(values) <= 8 and all(isinstance(v, (int, float)) and abs(v) < 1e12 for v in values)
