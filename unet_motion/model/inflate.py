"""How a UNet is put together from an image UNet and a motion adapter, and written apart again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config.adapter import MotionAdapterConfig
from ..config.convert import adapter_config, adapter_fields, adapter_of, unet2d_arguments
from ..config.unet import UNetMotionConfig
from ..files.names import is_motion
from ..files.pretrained import from_pretrained, save_pretrained
from ..ops.sinusoids import sinusoidal_table
from .ip_adapter import IPAdapterMixin
from .motion_adapter import MotionAdapter


class AdapterMixin(IPAdapterMixin):
    """Building, loading and saving of :class:`unet_motion.UNetMotionModel`."""

    # Whether the input layer has channels that came with an adapter and are saved with it.
    _adapter_conv_in = False

    @classmethod
    def from_config(cls, config: UNetMotionConfig | dict, **kwargs: Any):
        """Build from a configuration object or dictionary; ``kwargs`` are the constructor's (``dtype``, ...)."""
        if isinstance(config, dict):
            config = UNetMotionConfig.from_dict(config)
        return cls(**{name: config[name] for name in config.field_names()}, **kwargs)

    @classmethod
    def from_unet2d(
        cls, unet: nn.Module, motion_adapter: MotionAdapter | None = None, load_weights: bool = True, **kwargs
    ):
        """Inflate an image UNet, with the motion modules of an adapter if one is given.

        Without an adapter the result computes exactly the image UNet, frame by frame: the new motion modules end in
        zeros.

        Args:
            unet: a module with the configuration and the parameter names of diffusers' UNet2DConditionModel.
            motion_adapter: ours or diffusers'.
            load_weights: copy the weights of both, not only the configuration.
            kwargs: the constructor's ``operations`` and ``weights``.

        Raises:
            ValueError: a setting of the image UNet that this network does not have, or an adapter that does not fit.
        """
        values = unet2d_arguments(unet.config)
        if motion_adapter is not None:
            values.update(adapter_fields(values, adapter_config(motion_adapter)))
        first = next(unet.parameters())
        model = cls(**values, dtype=first.dtype, device=first.device, **kwargs)
        if load_weights:
            state = unet.state_dict()
            model.attach_ip_adapter(state)
            if motion_adapter is not None and motion_adapter.conv_in is not None:
                own, adapted = state["conv_in.weight"], motion_adapter.conv_in.weight.detach()
                state["conv_in.weight"] = widen_conv_in(own, adapted, own.shape[1])
            model._load_image_weights(state)
            if motion_adapter is not None:
                model.load_motion_modules(motion_adapter)
        return model.train(unet.training)

    def _load_image_weights(self, state: Mapping[str, Tensor]) -> None:
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [k for k in missing if not is_motion(k)]
        if missing or unexpected:
            raise ValueError(
                f"the image UNet lacks {len(missing)} tensors of this network {missing[:3]} and has "
                f"{len(unexpected)} that it does not know {list(unexpected)[:3]}."
            )

    def load_motion_modules(self, motion_adapter: nn.Module | None) -> None:
        """Copy the weights of an adapter (ours or diffusers') into the motion modules, and its image encoder.

        The position table takes the adapter's length. An adapter without mid block leaves the mid block without
        motion, and the mid block of an adapter is left out by a UNet without motion there; both are warned about.

        Raises:
            ValueError: widths, layers or depths that do not fit.
        """
        if motion_adapter is None:
            return
        state = dict(motion_adapter.state_dict())
        conv_in = self._adapted_conv_in(state)
        if self.mid_block.motion_modules is None:
            dropped = [state.pop(k) for k in list(state) if k.startswith("mid_block.")]
            if dropped:
                warnings.warn(
                    "the adapter's mid block is left out: the UNet has no motion modules there.", stacklevel=2
                )
        own = {k: v for k, v in self.state_dict().items() if is_motion(k)}
        if self.mid_block.motion_modules is not None and not any(k.startswith("mid_block.") for k in state):
            warnings.warn("the adapter has no mid block: the UNet's mid block is left without motion.", stacklevel=2)
            mid = {k: v for k, v in own.items() if k.startswith("mid_block.")}
            state.update({k: torch.zeros_like(v) if ".proj_out." in k else v for k, v in mid.items()})
        _check_motion_state(own, state)
        self._resize_position_tables(next((v for k, v in state.items() if k.endswith(".pe")), None))
        for name, tensor in state.items():
            if name.startswith("mid_block.") and name.endswith(".pe"):
                state[name] = _fit_rows(tensor, self.config.motion_max_seq_length)
        self.load_state_dict({**state, **conv_in}, strict=False)
        self._adapter_conv_in = bool(conv_in) or self._adapter_conv_in

    def _resize_position_tables(self, table: Tensor | None) -> None:
        if table is None or table.shape[1] == self.config.motion_max_seq_length:
            return
        for part in self.motion_parts():
            for name, module in part.named_modules():
                if name.endswith("pos_embed"):
                    module.pe = module.pe.new_zeros(1, table.shape[1], module.pe.shape[2])
        self.config = self.config.replace(motion_max_seq_length=table.shape[1])

    def _adapted_conv_in(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the adapter's input layer out of ``state``; of it only the channels behind the latent's count (PIA)."""
        weight, _ = state.pop("conv_in.weight", None), state.pop("conv_in.bias", None)
        if weight is None:
            return {}
        own = self.conv_in.weight.detach()
        if weight.shape != own.shape:
            raise ValueError(
                f"Incompatible Motion Adapter: its `conv_in` has shape {tuple(weight.shape)}, the UNet's has "
                f"{tuple(own.shape)}."
            )
        return {"conv_in.weight": widen_conv_in(own, weight, self.config.out_channels)}

    def motion_adapter(self) -> MotionAdapter:
        """The motion modules as an adapter of their own, sharing the weights of this model."""
        state = {k: v for k, v in self.state_dict().items() if is_motion(k)}
        if self._adapter_conv_in:
            state.update({k: v for k, v in self.state_dict().items() if k.startswith("conv_in.")})
        adapter = MotionAdapter.from_config(self.motion_adapter_config(), dtype=self.dtype, device="meta")
        adapter.load_state_dict(state, strict=True, assign=True)
        return adapter

    def motion_adapter_config(self) -> MotionAdapterConfig:
        """The configuration of an adapter that fits this model's motion modules."""
        return adapter_of(self.config, with_input=self._adapter_conv_in)

    def save_motion_modules(self, path: str | Path, **kwargs: Any) -> None:
        """Write the motion modules as a :class:`MotionAdapter` folder; ``kwargs`` as for :meth:`save_pretrained`."""
        scopes = {name: self.config[name] for name in ("resnet_norm_scope", "motion_norm_scope")}
        self.motion_adapter().save_pretrained(path, **{"extra_config": scopes, **kwargs})

    @classmethod
    def from_pretrained(cls, path: str | Path, **kwargs: Any):
        """Read a folder written by :meth:`save_pretrained` or by diffusers."""
        return from_pretrained(cls, path, **kwargs)

    def save_pretrained(self, path: str | Path, **kwargs: Any) -> None:
        """Write ``config.json`` and safetensors weights that diffusers reads too."""
        save_pretrained(self, path, **kwargs)


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
