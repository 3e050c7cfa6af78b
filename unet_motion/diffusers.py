"""diffusers' base classes over this project's network: for programs and pipelines that are written for diffusers.

    from unet_motion.diffusers import MotionAdapter, UNetMotionModel    # in place of: from diffusers import ...

Everything that diffusers' classes of these names inherit is there: loading from folders and from the Hugging Face hub,
variants, device maps, PEFT adapters, layerwise casting, offloading, gradient checkpointing. Needs the extra
``diffusers``.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

try:
    from diffusers.configuration_utils import ConfigMixin, FrozenDict
    from diffusers.loaders import PeftAdapterMixin, UNet2DConditionLoadersMixin
    from diffusers.models.attention import AttentionMixin
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.models.unets.unet_motion_model import UNetMotionModel as TheirUNet
    from diffusers.models.unets.unet_motion_model import UNetMotionOutput
except ImportError as error:
    raise ImportError(
        f"unet_motion.diffusers needs diffusers 0.36 or newer ({error}): pip install 'unet-motion[diffusers]'"
    ) from error

from torch import Tensor, nn

from .config.adapter import MotionAdapterConfig
from .config.fields import ConfigBase
from .config.unet import SCOPE_FIELDS, UNetMotionConfig
from .formats import load_motion_module
from .forward.settings import Settings
from .model import motion_adapter, unet_motion_model
from .model.transformer import SpatialTransformer

__all__ = ["MotionAdapter", "UNetMotionModel", "accelerate", "restore"]

RETURN_DICT = list(inspect.signature(unet_motion_model.UNetMotionModel.forward).parameters).index("return_dict") - 1
"""Its place among the arguments of ``forward``."""


class Configuration(FrozenDict):
    """diffusers' dictionary of a model's configuration, with the methods of this project's :class:`ConfigBase`."""

    def __init__(self, fields: ConfigBase, others: dict[str, Any]):
        values = {name: fields[name] for name in fields.field_names() if not _is_usual(name, fields[name])}
        super().__init__({**others, **values})
        object.__setattr__(self, "_fields", fields)

    def __missing__(self, name: str) -> Any:
        return self._fields[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_fields":
            raise AttributeError(name)
        return getattr(self._fields, name)

    def __reduce__(self):
        names = self._fields.field_names()
        return Configuration, (self._fields, {name: value for name, value in self.items() if name not in names})


def _is_usual(name: str, value: Any) -> bool:
    """Whether a field that diffusers does not know has the value of all that diffusers builds: it need not be said."""
    usual = {"resnet_norm_scope": "frame", "motion_norm_scope": "clip", "use_image_encoder": False}
    return name in usual and usual[name] == value


class _Model(ModelMixin, ConfigMixin):
    """What the two models share: diffusers' loading and saving, and one configuration for both projects."""

    @property
    def config(self) -> Configuration:
        return self.__dict__["_internal_dict"]

    @config.setter
    def config(self, fields: ConfigBase | Configuration) -> None:
        others = {name: value for name, value in self.__dict__.get("_internal_dict", {}).items() if name[0] == "_"}
        fields = getattr(fields, "_fields", fields)
        self.__dict__["_internal_dict"] = Configuration(fields, others)

    def register_to_config(self, **values: Any) -> None:
        fields = self.config._fields
        names = fields.field_names()
        others = {name: value for name, value in {**self.config, **values}.items() if name not in names}
        changes = {name: value for name, value in values.items() if name in names}
        self.__dict__["_internal_dict"] = Configuration(fields.replace(**changes) if changes else fields, others)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "config":
            type(self).config.fset(self, value)
        else:
            super().__setattr__(name, value)

    # Loading, saving and making from a configuration are diffusers' own.
    from_pretrained = ModelMixin.__dict__["from_pretrained"]
    save_pretrained = ModelMixin.save_pretrained
    from_config = ConfigMixin.__dict__["from_config"]
    dtype, device = ModelMixin.dtype, ModelMixin.device


def _signature(config_class: type[ConfigBase]) -> inspect.Signature:
    """Of an ``__init__`` whose arguments are the fields of a configuration: diffusers looks there for their names."""
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([this, *inspect.signature(config_class).parameters.values()])


def read_weights(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A layer's weights for input x, wherever diffusers keeps them and in any dtype; a PEFT layer's with its LoRAs."""
    weight, bias = layer.weight, layer.bias
    for name in getattr(layer, "active_adapters", ()) if hasattr(layer, "base_layer") else ():
        if name in layer.lora_A and name not in layer.merged_adapters and not layer.disable_adapters:
            weight = weight + layer.get_delta_weight(name).view_as(weight)
    weight = weight.to(x.device, x.dtype)
    return weight, None if bias is None else bias.to(x.device, x.dtype)


class UNetMotionModel(
    _Model, UNet2DConditionLoadersMixin, PeftAdapterMixin, AttentionMixin, unet_motion_model.UNetMotionModel
):
    """diffusers' ``UNetMotionModel`` over :class:`unet_motion.UNetMotionModel`: the arguments, and all it inherits.

    The values are those of both classes to 1e-5; docs/diffusers.md names what differs.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["norm"]

    def __init__(self, *args: Any, **kwargs: Any):
        # ModelMixin, which comes first, takes no arguments.
        unet_motion_model.UNetMotionModel.__init__(self, *args, weights=read_weights, **kwargs)
        del self.gradient_checkpointing
        blocks = (*self.down_blocks, *self.up_blocks, self.mid_block)
        kinds = (*self.config.down_block_types, *self.config.up_block_types, "UNetMidBlockCrossAttnMotion")
        for block, kind in zip(blocks, kinds, strict=True):
            _rename(block, kind)
        for module in self.modules():
            if isinstance(module, SpatialTransformer):
                _rename(module, "Transformer2DModel")

    __init__.__signature__ = _signature(UNetMotionConfig)

    attn_processors = unet_motion_model.UNetMotionModel.attn_processors
    set_attn_processor = unet_motion_model.UNetMotionModel.set_attn_processor
    set_default_attn_processor = unet_motion_model.UNetMotionModel.set_default_attn_processor
    fuse_qkv_projections = unet_motion_model.UNetMotionModel.fuse_qkv_projections
    unfuse_qkv_projections = unet_motion_model.UNetMotionModel.unfuse_qkv_projections

    def forward(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> UNetMotionOutput | tuple[Tensor]:
        """See :meth:`unet_motion.UNetMotionModel.forward`; the result is diffusers' ``UNetMotionOutput``."""
        if len(args) > RETURN_DICT:
            args, return_dict = (*args[:RETURN_DICT], *args[RETURN_DICT + 1 :]), args[RETURN_DICT]
        out = unet_motion_model.UNetMotionModel.forward(self, *args, return_dict=False, **kwargs)
        return UNetMotionOutput(sample=out[0]) if return_dict else out

    @property
    def defaults(self) -> Settings:
        blocks = [m for m in (*self.down_blocks, self.mid_block, *self.up_blocks) if m.gradient_checkpointing]
        function = blocks[0]._gradient_checkpointing_func if blocks else None
        scopes = {name: self.config[name] for name in SCOPE_FIELDS}
        return replace(self._defaults, checkpointing=function, **scopes)

    def save_motion_modules(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the motion modules as a :class:`MotionAdapter` folder; ``kwargs`` as for ``save_pretrained``."""
        MotionAdapter.of(self.motion_adapter()).save_pretrained(save_directory, **kwargs)

    def _load_ip_adapter_weights(self, state_dicts: Any, low_cpu_mem_usage: bool = True) -> None:
        self.load_ip_adapter(state_dicts)


class MotionAdapter(_Model, motion_adapter.MotionAdapter):
    """diffusers' ``MotionAdapter`` over :class:`unet_motion.MotionAdapter`, with what that inherits."""

    def __init__(self, *args: Any, **kwargs: Any):
        motion_adapter.MotionAdapter.__init__(self, *args, **kwargs)

    __init__.__signature__ = _signature(MotionAdapterConfig)

    @classmethod
    def of(cls, adapter: motion_adapter.MotionAdapter) -> MotionAdapter:
        """An adapter of the core as one of this class; it shares the weights."""
        with torch.device("meta"):
            made = cls(**adapter.config.to_dict())
        made.load_state_dict(adapter.state_dict(), assign=True)
        return made.train(adapter.training)

    @classmethod
    def from_single_file(
        cls, pretrained_model_link_or_path: str | Path, *, torch_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu", **kwargs: Any,
    ) -> MotionAdapter:  # fmt: skip
        """The motion module of a file on this machine, of any kind that :func:`unet_motion.load_motion_module` reads.

        Raises:
            FileNotFoundError: nothing is there.
            FileFormatError: the file holds no motion modules that fit together.
            TypeError: an argument that changes nothing here.
        """
        unknown = sorted(kwargs.keys() - {"local_files_only", "low_cpu_mem_usage", "disable_mmap"})
        if unknown:
            raise TypeError(f"MotionAdapter.from_single_file() has no argument {', '.join(unknown)}.")
        return cls.of(load_motion_module(pretrained_model_link_or_path, torch_dtype, device).to_adapter()).eval()


@lru_cache
def _named(cls: type[nn.Module], name: str) -> type[nn.Module]:
    return type(name, (cls,), {"__module__": __name__, "gradient_checkpointing": False})


def _rename(module: nn.Module, name: str) -> None:
    """Give a module diffusers' name for its class, and the switch that gradient checkpointing looks for."""
    module.__class__ = _named(type(module), name)


def accelerate(pipe: Any) -> None:
    """Put this project's UNet in the place of a pipeline's ``UNetMotionModel``; it shares the weights.

    FreeU's factors and the training mode stay; :func:`restore` puts the pipeline's own UNet back. What is loaded
    afterwards, such as LoRAs, is loaded into the UNet that is there then.

    Raises:
        TypeError: the pipeline has no motion UNet of diffusers.
        ValueError: adapters are loaded into it, which do not move.
    """
    theirs = getattr(pipe, "unet", None)
    if isinstance(theirs, UNetMotionModel):
        return
    if not isinstance(theirs, TheirUNet):
        raise TypeError(f"`pipe.unet` is a {type(theirs).__name__}, expected diffusers' UNetMotionModel.")
    if getattr(theirs, "peft_config", None) or theirs.encoder_hid_proj is not None:
        raise ValueError("`pipe.unet` has LoRAs or an IP-Adapter loaded, expected none: load them after `accelerate`.")
    with torch.device("meta"):
        ours = UNetMotionModel.from_config(theirs.config)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.requires_grad_(their.requires_grad)
    factors = [getattr(theirs.up_blocks[0], name, None) for name in ("s1", "s2", "b1", "b2")]
    if None not in factors:
        ours.enable_freeu(*factors)
    object.__setattr__(ours, "_replaced", theirs)
    pipe.unet = ours.train(theirs.training)


def restore(pipe: Any) -> None:
    """Undo :func:`accelerate`: weights that were trained meanwhile are those of the pipeline's UNet too.

    Raises:
        ValueError: the pipeline's UNet was not put there by :func:`accelerate`.
    """
    theirs = pipe.unet.__dict__.get("_replaced") if isinstance(pipe.unet, UNetMotionModel) else None
    if theirs is None:
        raise ValueError(f"`pipe.unet` is a {type(pipe.unet).__name__} that `accelerate` did not put there.")
    theirs.load_state_dict(pipe.unet.state_dict(), assign=True)
    pipe.unet = theirs.train(pipe.unet.training)
