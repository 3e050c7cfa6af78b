"""An image UNet and motion modules into one another: a UNet is put together from both, and taken apart again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config.adapter import MotionAdapterConfig
from ..config.convert import adapter_config, adapter_fields, adapter_of, unet2d_arguments
from ..files.names import is_motion
from ..ops.sinusoids import sinusoidal_table
from .ip_adapter import attach
from .motion_adapter import MotionAdapter
from .unet import MotionUNet


def inflated_arguments(image_unet: nn.Module, adapter: nn.Module | None) -> dict[str, Any]:
    """Constructor arguments of a motion UNet for an image UNet (diffusers' configuration) and an adapter.

    Raises:
        TypeError: no module with a configuration.
        ValueError: a setting of the image UNet that this network does not have, or an adapter that does not fit.
    """
    _check_kind("unet", image_unet, "diffusers' UNet2DConditionModel")
    if adapter is not None:
        _check_kind("motion_adapter", adapter, "a MotionAdapter")
    values = unet2d_arguments(cast(Any, image_unet.config))
    if adapter is not None:
        values.update(adapter_fields(values, adapter_config(adapter)))
    return values


def _check_kind(name: str, given: object, expected: str) -> None:
    if not isinstance(given, nn.Module) or not hasattr(given, "config"):
        raise TypeError(f"`{name}` is a {type(given).__name__}, expected {expected}.")


def load_image_unet(unet: MotionUNet, image_unet: nn.Module, adapter: nn.Module | None) -> None:
    """Copy the weights of an image UNet, and those of an adapter, into a motion UNet.

    Raises:
        ValueError: tensors that are missing, unknown or of another shape.
    """
    state = image_unet.state_dict()
    attach(unet, state)
    if adapter is not None and (layer := cast(nn.Conv2d | None, adapter.conv_in)) is not None:
        own, adapted = state["conv_in.weight"], layer.weight.detach()
        state["conv_in.weight"] = widen_conv_in(own, adapted, own.shape[1])
    missing, unexpected = unet.load_state_dict(state, strict=False)
    missing = [k for k in missing if not is_motion(k)]
    if missing or unexpected:
        raise ValueError(
            f"the image UNet lacks {len(missing)} tensors of this network {missing[:3]} and has "
            f"{len(unexpected)} that it does not know {list(unexpected)[:3]}."
        )
    if adapter is not None:
        load_motion_modules(unet, adapter)


def load_motion_modules(unet: MotionUNet, adapter: nn.Module) -> None:
    """Copy the weights of an adapter: see :meth:`unet_motion.UNetMotionModel.load_motion_modules`."""
    _check_kind("motion_adapter", adapter, "a MotionAdapter")
    state = dict(adapter.state_dict())
    conv_in = _adapted_conv_in(unet, state)
    own = {k: v for k, v in unet.state_dict().items() if is_motion(k)}
    _match_mid_blocks(unet, state, own)
    _check_motion_state(own, state)
    _resize_position_tables(unet, next((v for k, v in state.items() if k.endswith(".pe")), None))
    for name, tensor in state.items():
        if name.startswith("mid_block.") and name.endswith(".pe"):
            state[name] = _fit_rows(tensor, unet.config.motion_max_seq_length)
    unet.load_state_dict({**state, **conv_in}, strict=False)
    unet.adapter_conv_in = bool(conv_in) or unet.adapter_conv_in


def _match_mid_blocks(unet: MotionUNet, state: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Leave the mid block out of ``state`` where the UNet has none, or fill it so that it changes nothing."""
    theirs = [k for k in state if k.startswith("mid_block.")]
    if not hasattr(unet.mid_block, "motion_modules"):
        if theirs:
            warnings.warn("the adapter's mid block is left out: the UNet has no motion modules there.", stacklevel=4)
        for name in theirs:
            del state[name]
    elif not theirs:
        warnings.warn("the adapter has no mid block: the UNet's mid block is left without motion.", stacklevel=4)
        mid = {k: v for k, v in own.items() if k.startswith("mid_block.")}
        state.update({k: torch.zeros_like(v) if ".proj_out." in k else v for k, v in mid.items()})


def _resize_position_tables(unet: MotionUNet, table: Tensor | None) -> None:
    if table is None or table.shape[1] == unet.config.motion_max_seq_length:
        return
    for _, motion_module in unet.motion_modules_at:
        for name, module in motion_module.named_modules():
            if name.endswith("pos_embed"):
                old = cast(Tensor, module.pe)
                module.pe = old.new_zeros(1, table.shape[1], old.shape[2])
    unet.config = unet.config.replace(motion_max_seq_length=table.shape[1])


def _adapted_conv_in(unet: MotionUNet, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the adapter's input layer out of ``state``; of it only the channels behind the latent's count (PIA)."""
    weight, _ = state.pop("conv_in.weight", None), state.pop("conv_in.bias", None)
    if weight is None:
        return {}
    own = unet.conv_in.weight.detach()
    if weight.shape != own.shape:
        raise ValueError(
            f"Incompatible Motion Adapter: its `conv_in` has shape {tuple(weight.shape)}, the UNet's has "
            f"{tuple(own.shape)}."
        )
    return {"conv_in.weight": widen_conv_in(own, weight, unet.config.out_channels)}


def motion_adapter(unet: MotionUNet) -> MotionAdapter:
    """The motion modules as an adapter of their own, sharing the weights of a UNet."""
    state = {k: v for k, v in unet.state_dict().items() if is_motion(k)}
    if unet.adapter_conv_in:
        state.update({k: v for k, v in unet.state_dict().items() if k.startswith("conv_in.")})
    adapter = MotionAdapter.from_config(motion_adapter_config(unet), dtype=unet.dtype, device="meta")
    adapter.load_state_dict(state, strict=True, assign=True)
    return adapter


def motion_adapter_config(unet: MotionUNet) -> MotionAdapterConfig:
    """The configuration of an adapter that fits a UNet's motion modules."""
    return adapter_of(unet.config, with_input=unet.adapter_conv_in)


def widen_conv_in(own: Tensor, adapted: Tensor, latent: int) -> Tensor:
    """The weight of an input layer with the channels that motion modules bring (PIA); the first ``latent`` stay."""
    return torch.cat([own[:, :latent], adapted[:, latent:].to(own)], dim=1)


def _check_motion_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"Incompatible Motion Adapter: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(unexpected)} are not known to the UNet {unexpected[:3]}."
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape and not name.endswith(".pe"):
            raise ValueError(
                f"Incompatible Motion Adapter: {name} has shape {tuple(tensor.shape)}, the UNet's has "
                f"{tuple(own[name].shape)}."
            )


def _fit_rows(table: Tensor, rows: int) -> Tensor:
    if table.shape[1] >= rows:
        return table[:, :rows]
    return sinusoidal_table(rows, table.shape[2], table.device).to(table.dtype)
