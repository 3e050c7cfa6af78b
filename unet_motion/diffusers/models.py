"""diffusers' motion UNet and motion adapter over this project's network."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets import unet_motion_model as theirs
from torch import Tensor, nn

from ..config.adapter import MotionAdapterConfig
from ..config.convert import adapter_config
from ..config.unet import SCOPE_FIELDS, UNetMotionConfig
from ..formats import load_motion_module
from ..forward.call import Settings
from ..forward.options import ForwardOptions
from ..forward.processor_plan import choose_processors
from ..model import motion_adapter, unet_motion_model
from ..model.attention import Attention
from ..model.ip_adapter import set_processor
from ..values import quoted
from . import layers
from .configuration import Model, signature

RETURN_DICT = list(inspect.signature(unet_motion_model.UNetMotionModel.forward).parameters).index("return_dict") - 1
"""Its place among the arguments of ``forward``."""


def read_weights(layer: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A layer's weights for input x, wherever diffusers keeps them and in any dtype; a PEFT layer's with its LoRAs."""
    weight, bias = layer.weight, layer.bias
    for name in getattr(layer, "active_adapters", ()) if hasattr(layer, "base_layer") else ():
        if name in layer.lora_A and name not in layer.merged_adapters and not layer.disable_adapters:
            weight = weight + layer.get_delta_weight(name).view_as(weight)
    weight = weight.to(x.device, x.dtype)
    return weight, None if bias is None else bias.to(x.device, x.dtype)


OURS = unet_motion_model.UNetMotionModel


class UNetMotionModel(Model, theirs.UNetMotionModel, OURS):
    """diffusers' ``UNetMotionModel`` over :class:`unet_motion.UNetMotionModel`: the arguments, and all it inherits.

    The values are those of both classes to 1e-5; docs/diffusers.md names what differs.
    """

    stands_for = theirs.UNetMotionModel
    silent = False
    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["norm"]

    def __init__(self, *args: Any, **kwargs: Any):
        # ModelMixin, which comes first, takes no arguments.
        unet_motion_model.UNetMotionModel.__init__(self, *args, weights=read_weights, **kwargs)
        del self.gradient_checkpointing
        layers.name_layers(self)

    cast(Any, __init__).__signature__ = signature(UNetMotionConfig)

    # All else that diffusers' class inherits is diffusers' own.
    fuse_qkv_projections = cast(Any, OURS.fuse_qkv_projections)
    unfuse_qkv_projections = cast(Any, OURS.unfuse_qkv_projections)
    enable_forward_chunking = cast(Any, OURS.enable_forward_chunking)
    disable_forward_chunking = cast(Any, OURS.disable_forward_chunking)
    freeze_unet2d_params = cast(Any, OURS.freeze_unet2d_params)
    load_motion_modules = cast(Any, OURS.load_motion_modules)

    frames_at_once: int | None = None
    """Frames at a time in the layers between motion modules, as a pipeline's split inference says."""

    def forward(
        self, *args: Any, return_dict: bool = True, options: ForwardOptions | None = None, **kwargs: Any
    ) -> theirs.UNetMotionOutput | tuple[Tensor]:
        """See :meth:`unet_motion.UNetMotionModel.forward`; the result is diffusers' ``UNetMotionOutput``."""
        if len(args) > RETURN_DICT:
            args, return_dict = (*args[:RETURN_DICT], *args[RETURN_DICT + 1 :]), args[RETURN_DICT]
        sample = args[0] if args else kwargs.get("sample")
        kwargs |= {"return_dict": False, "options": self._options(options, sample)}
        out = OURS.forward(self, *args, **kwargs)
        return theirs.UNetMotionOutput(sample=out[0]) if return_dict else cast(tuple[Tensor], out)

    def _options(self, options: ForwardOptions | None, sample: Any) -> ForwardOptions | None:
        """The options of a call with what a pipeline's FreeNoise and split inference say."""
        layers.take_splits(self)
        changes: dict[str, Any] = {}
        if (options is None or options.views is None) and isinstance(sample, Tensor) and sample.dim() == 5:
            views = layers.free_noise_views(self, sample.shape[2])
            changes.update({} if views is None else {"views": views})
        if self.frames_at_once is not None and self.defaults.resnet_norm_scope == "frame":
            changes["frames_at_once"] = self.frames_at_once
        return replace(options or ForwardOptions(), **changes) if changes else options

    @property
    def attn_processors(self) -> dict[str, Any]:
        """Path of each attention layer with ``.processor`` behind it -> its processor, as it was given."""
        return {f"{path}.processor": layers.given_processor(layer) for path, layer in self.attention_layers}

    def set_attn_processor(self, processor: Any) -> None:
        """Set the processor of all attention layers, or of each by a dict: names and objects of both projects.

        diffusers' own processors for plain attention become this project's, which compute the same. Image layers of an
        IP-Adapter stay where one processor is given for all, and follow a dict of diffusers' objects.
        """
        names = [f"{path}.processor" for path, _ in self.attention_layers]
        if isinstance(processor, dict) and set(processor) == set(names):
            if not any(isinstance(chosen, str) for chosen in processor.values()):
                for name, (_, layer) in zip(names, self.attention_layers, strict=True):
                    layers.replace_processor(layer, processor[name])
                return
        for attention, one in choose_processors(processor, self.attention_layers).items():
            layers.set_given(cast(Attention, attention), one, set_processor)

    def set_default_attn_processor(self) -> None:
        """Back to this project's choice of attention everywhere; image layers of an IP-Adapter stay."""
        self.set_attn_processor("auto")

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """xformers' attention in all layers, or this project's choice again.

        Raises:
            ValueError: an operator of its own is asked for, which changes nothing here, or xformers cannot run.
        """
        if attention_op is not None:
            raise ValueError(f"`attention_op` is {quoted(attention_op)}, expected None: xformers chooses its operator.")
        self.set_attn_processor("xformers" if valid else "auto")

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """xformers' attention in all layers; see :meth:`set_use_memory_efficient_attention_xformers`."""
        self.set_use_memory_efficient_attention_xformers(True, attention_op)

    def disable_xformers_memory_efficient_attention(self) -> None:
        """This project's choice of attention in all layers."""
        self.set_use_memory_efficient_attention_xformers(False)

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float, version: str = "v1") -> None:
        """Apply FreeU; see :class:`unet_motion.FreeU` for the factors."""
        OURS.enable_freeu(self, s1, s2, b1, b2, version)
        self._show_freeu(s1=s1, s2=s2, b1=b1, b2=b2)

    def disable_freeu(self) -> None:
        """No FreeU."""
        OURS.disable_freeu(self)
        self._show_freeu(s1=None, s2=None, b1=None, b2=None)

    def _show_freeu(self, **factors: float | None) -> None:
        """The up blocks have the factors as attributes, where programs for diffusers read them."""
        for block in self.up_blocks:
            for name, value in factors.items():
                setattr(block, name, value)

    @property
    def defaults(self) -> Settings:
        blocks = [m for m in (*self.down_blocks, self.mid_block, *self.up_blocks) if m.gradient_checkpointing]
        function = blocks[0]._gradient_checkpointing_func if blocks else None
        scopes = {name: self.config[name] for name in SCOPE_FIELDS}
        return replace(self._defaults, checkpointing=function, **scopes)

    @classmethod
    def from_unet2d(
        cls, unet: nn.Module, motion_adapter: nn.Module | None = None, load_weights: bool = True, **kwargs: Any
    ) -> UNetMotionModel:
        """See :meth:`unet_motion.UNetMotionModel.from_unet2d`; norms over time have the image UNet's groups.

        That is what diffusers does, whatever the adapter says of its groups.
        """
        if motion_adapter is not None:
            motion_adapter = _with_groups(motion_adapter, cast(Any, unet.config)["norm_num_groups"])
        return OURS.__dict__["from_unet2d"].__func__(cls, unet, motion_adapter, load_weights, **kwargs)

    def save_motion_modules(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the motion modules as a :class:`MotionAdapter` folder; ``kwargs`` as for ``save_pretrained``."""
        MotionAdapter.of(self.motion_adapter()).save_pretrained(save_directory, **kwargs)

    def load_ip_adapter(self, state_dicts: Sequence[Mapping[str, Any]] | Mapping[str, Any], scale: float = 1.0) -> None:
        """Set image layers from IP-Adapter files of all kinds that diffusers knows; ``scale``: of each adapter."""
        given = [state_dicts] if isinstance(state_dicts, Mapping) else list(state_dicts)
        cast(Any, self)._load_ip_adapter_weights(given)
        OURS.set_ip_adapter_scale(self, scale)


def _with_groups(adapter: nn.Module, groups: int) -> nn.Module:
    """An adapter with the same weights whose configuration says so many groups."""
    config = adapter_config(adapter)
    if config.motion_norm_num_groups == groups:
        return adapter
    config = config.replace(motion_norm_num_groups=groups)
    shown = copy.copy(adapter)
    shown.__dict__.update(config=config, _internal_dict=config.to_dict())
    return shown


class MotionAdapter(Model, theirs.MotionAdapter, motion_adapter.MotionAdapter):
    """diffusers' ``MotionAdapter`` over :class:`unet_motion.MotionAdapter`, with what that inherits."""

    stands_for = theirs.MotionAdapter
    silent = False

    def __init__(self, *args: Any, **kwargs: Any):
        motion_adapter.MotionAdapter.__init__(self, *args, **kwargs)

    cast(Any, __init__).__signature__ = signature(MotionAdapterConfig)

    forward = cast(Any, motion_adapter.MotionAdapter.forward)

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
