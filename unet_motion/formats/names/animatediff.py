"""Parameter names of AnimateDiff's own motion modules, to and from diffusers' names, and their position tables.

The original keeps one table per attention (``attention_blocks.N.pos_encoder.pe``), diffusers one per transformer
block (``pos_embed.pe``). https://github.com/guoyww/AnimateDiff (animatediff/models/motion_module.py)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ...files.names import is_table
from ...files.position_tables import check_same_tables
from ..kinds import HOTSHOT_RENAMES, LCM_RENAMES

_TO_DIFFUSERS = (
    *((re.compile(pattern), replacement) for pattern, replacement in HOTSHOT_RENAMES + LCM_RENAMES),
    (re.compile(r"\.temporal_transformer\."), "."),
    (re.compile(r"\.attention_blocks\.[01]\.pos_encoder\.pe$"), ".pos_embed.pe"),
    (re.compile(r"\.attention_blocks\.0\."), ".attn1."),
    (re.compile(r"\.attention_blocks\.1\."), ".attn2."),
    (re.compile(r"\.norms\.0\."), ".norm1."),
    (re.compile(r"\.norms\.1\."), ".norm2."),
    (re.compile(r"\.ff_norm\."), ".norm3."),
)
_TO_ORIGINAL = (
    (re.compile(r"(\.motion_modules\.\d+)\."), r"\1.temporal_transformer."),
    (re.compile(r"\.attn1\."), ".attention_blocks.0."),
    (re.compile(r"\.attn2\."), ".attention_blocks.1."),
    (re.compile(r"\.norm1\."), ".norms.0."),
    (re.compile(r"\.norm2\."), ".norms.1."),
    (re.compile(r"\.norm3\."), ".ff_norm."),
)


def diffusers_name(key: str) -> str:
    """The diffusers name of AnimateDiff's or HotshotXL's; names outside motion modules stay as they are."""
    if ".motion_modules." not in key and ".temporal_attentions." not in key:
        return key
    for pattern, replacement in _TO_DIFFUSERS:
        key = pattern.sub(replacement, key)
    return key


def original_names(key: str) -> tuple[str, ...]:
    """The original name of a diffusers one: two for a position table, else one."""
    if ".motion_modules." not in key:
        return (key,)
    for pattern, replacement in _TO_ORIGINAL:
        key = pattern.sub(replacement, key)
    if is_table(key):
        block = key[: -len(".pos_embed.pe")]
        return tuple(f"{block}.attention_blocks.{i}.pos_encoder.pe" for i in range(2))
    return (key,)


def diffusers_names(keys: Iterable[str]) -> dict[str, list[str]]:
    """Diffusers names -> the original names (two for position tables) that stand for them."""
    names: dict[str, list[str]] = {}
    for key in keys:
        names.setdefault(diffusers_name(key), []).append(key)
    return names


def animatediff_to_diffusers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a motion module's tensors from the original names to diffusers'.

    Raises:
        FileFormatError: the two attentions of a block have different position tables.
    """
    renamed = {}
    for name, keys in diffusers_names(state_dict).items():
        tensors = [state_dict[key] for key in keys]
        check_same_tables("state_dict", keys, tensors)
        renamed[name] = tensors[0]
    return renamed


def diffusers_to_animatediff(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a motion module's tensors from diffusers' names to the original ones."""
    return {name: value for key, value in state_dict.items() for name in original_names(key)}
