"""Stable Diffusion's original (LDM) names of the UNet's parameters, to and from diffusers' names.

In LDM, ``input_blocks`` counts ``conv_in``, then every resnet layer and every downsampler of the way down;
``output_blocks`` counts the resnet layers of the way up, whose last one of a resolution also holds the upsampler.
Inside an entry, ``.0`` is the resnet (or the downsampler's ``op``), ``.1`` the transformer, and the upsampler comes
behind what is there. https://github.com/CompVis/latent-diffusion (openaimodel.py)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ...config.unet import UNetMotionConfig
from ...files.errors import FileFormatError, KeyMismatchError, name_some
from ...files.names import is_motion
from ..shapes import unet_shapes

Value = TypeVar("Value")

_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


OWN_PREFIXES = ("motion.", "extra.")
"""What stands before diffusers' name of a layer for which LDM has none, where this project's models are saved."""


def ldm_modules(layers: Sequence[int], up_attention: Sequence[bool]) -> dict[str, str]:
    """Module names, diffusers -> LDM. Transformers have the same names below theirs in both.

    Args:
        layers: resnets per down block.
        up_attention: per up block, whether it has transformers (the upsampler's place depends on it).
    """
    names = dict(_FIXED)

    def resnet(ours: str, theirs: str) -> None:
        names.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in _RESNET.items()})

    index = 1
    for block, count in enumerate(layers):
        for layer in range(count):
            resnet(f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{index}.0")
            names[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{index}.1"
            index += 1
        if block < len(layers) - 1:
            names[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{index}.0.op"
            index += 1
    resnet("mid_block.resnets.0", "middle_block.0")
    names["mid_block.attentions.0"] = "middle_block.1"
    resnet("mid_block.resnets.1", "middle_block.2")
    index = 0
    for block, count in enumerate(reversed(layers)):
        for layer in range(count + 1):
            resnet(f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{index}.0")
            names[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{index}.1"
            index += 1
        if block < len(layers) - 1:
            place = 2 if up_attention[block] else 1
            names[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{index - 1}.{place}.conv"
    return names


def _translate(key: str, modules: Mapping[str, str]) -> str | None:
    """``key`` with its longest module name in ``modules`` replaced, or None if none of them is in it."""
    end = len(key)
    while (end := key.rfind(".", 0, end)) > 0:
        if key[:end] in modules:
            return modules[key[:end]] + key[end:]
    return None


def modules_of(config: UNetMotionConfig) -> dict[str, str]:
    """:func:`ldm_modules` for a configuration.

    Raises:
        ValueError: LDM has no names for a mid block with more or fewer than one transformer.
    """
    if config.mid_block_layers != 1:
        raise ValueError(f"`mid_block_layers` is {config.mid_block_layers}, LDM names exist for 1 only.")
    return ldm_modules(
        [plan.layers for plan in config.down_plans()], [plan.cross_attention for plan in config.up_plans()]
    )


def ldm_key_map(config: UNetMotionConfig) -> dict[str, str]:
    """Parameter names of the 2-D UNet, diffusers -> LDM, without a prefix; motion modules have no LDM names."""
    modules = modules_of(config)
    pairs = ((key, _translate(key, modules)) for key in unet_shapes(config) if not is_motion(key))
    return {ours: theirs for ours, theirs in pairs if theirs is not None}


def ldm_to_diffusers(state_dict: Mapping[str, Value], config: UNetMotionConfig, prefix: str = "") -> dict[str, Value]:
    """Rename a UNet's tensors from LDM to diffusers; values are passed on as they are.

    Args:
        prefix: what stands before the LDM names, e.g. ``model.diffusion_model.``; other keys are left out.

    Raises:
        KeyMismatchError: a name that is no part of this UNet.
    """
    back = {theirs: ours for ours, theirs in modules_of(config).items()}
    return _rename(state_dict, back, prefix, "", "LDM")


def diffusers_to_ldm(state_dict: Mapping[str, Value], config: UNetMotionConfig, prefix: str = "") -> dict[str, Value]:
    """Rename a UNet's tensors from diffusers to LDM, with ``prefix`` before them; motion modules are left out.

    Raises:
        KeyMismatchError: a name that is no part of this UNet.
    """
    spatial = {key: value for key, value in state_dict.items() if not is_motion(key)}
    return _rename(spatial, modules_of(config), "", prefix, "diffusers")


def _rename(
    state_dict: Mapping[str, Value], modules: Mapping[str, str], before: str, after: str, words: str
) -> dict[str, Value]:
    renamed, unknown = {}, []
    for key, value in state_dict.items():
        if not key.startswith(before):
            continue
        name = _translate(key[len(before) :], modules)
        if name is None:
            unknown.append(key)
        else:
            renamed[after + name] = value
    if unknown:
        raise KeyMismatchError(f"{name_some(unknown)}: no {words} names of this UNet.")
    return renamed


def ldm_layers(keys: Iterable[str], path: str | Path) -> tuple[list[int], list[bool]]:
    """Resnets per down block, and which up blocks have transformers, from LDM names without prefix.

    Raises:
        FileFormatError: the names do not form the UNet of Stable Diffusion.
    """
    keys = set(keys)
    layers, index = [0], 1
    while True:
        if f"input_blocks.{index}.0.in_layers.2.weight" in keys:
            layers[-1] += 1
        elif f"input_blocks.{index}.0.op.weight" in keys:
            layers.append(0)
        else:
            break
        index += 1
    outputs = sum(count + 1 for count in layers)
    present = 0
    while f"output_blocks.{present}.0.in_layers.2.weight" in keys:
        present += 1
    if 0 in layers or present != outputs:
        raise FileFormatError(
            f"{path}: has input blocks with {layers} resnets per resolution and {present} output blocks, "
            f"expected {outputs} output blocks and no empty resolution."
        )
    attention, index = [], 0
    for count in reversed(layers):
        attention.append(f"output_blocks.{index}.1.proj_in.weight" in keys)
        index += count + 1
    return layers, attention


def ldm_names(keys: Iterable[str], path: str | Path) -> tuple[dict[str, str], list[str]]:
    """LDM names without prefix -> diffusers names, from the names alone; and those that have no diffusers name."""
    keys = list(keys)
    back = {theirs: ours for ours, theirs in ldm_modules(*ldm_layers(keys, path)).items()}
    found = {key: key.split(".", 1)[1] if key.startswith(OWN_PREFIXES) else _translate(key, back) for key in keys}
    return {k: v for k, v in found.items() if v is not None}, [k for k, v in found.items() if v is None]
