"""diffusers' class around the network: its constructor, setters, loading and saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from ..config.adapter import MotionAdapterConfig
from ..config.unet import UNetMotionConfig, check_norm_scope
from ..files.pretrained import from_pretrained, save_pretrained
from ..forward.call import recomputed
from ..forward.options import check_chunking
from ..forward.processor_plan import choose_processors
from ..ops.attention import DEFAULT_PROCESSOR
from ..ops.freeu import FreeU
from ..ops.linear.packed import pack_for
from . import float8_products, inflate, ip_adapter
from .attention import Attention
from .motion_adapter import MotionAdapter
from .unet import MotionUNet, UNetMotionOutput

UNet3DConditionOutput = UNetMotionOutput


class UNetMotionModel(MotionUNet):
    """A UNet for video latents with diffusers' constructor, methods and parameter names.

    Args:
        config: the fields of :class:`UNetMotionConfig` by position or name, with diffusers' order and defaults.
        operations, weights, dtype, device: as for :class:`unet_motion.model.unet.MotionUNet`.
    """

    config_class = UNetMotionConfig

    def __init__(self, *args: Any, operations=None, weights=None, dtype=None, device=None, **kwargs: Any):
        super().__init__(UNetMotionConfig(*args, **kwargs), operations, weights, dtype, device)

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float, version: str = "v1") -> None:
        """Apply FreeU by default; see :class:`FreeU` for the factors."""
        self.set_defaults(freeu=FreeU(s1=s1, s2=s2, b1=b1, b2=b2, version=version))

    def disable_freeu(self) -> None:
        """No FreeU by default."""
        self.set_defaults(freeu=None)

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Compute feed-forward layers ``chunk_size`` (default 1) entries at a time, for less memory.

        Args:
            chunk_size: any size; the last chunk may be short.
            dim: 0 for the batch (frames in spatial, pixels in motion layers), 1 for the sequence (the reverse).
        """
        chunking = (1 if chunk_size is None else chunk_size, dim)
        check_chunking(chunking)
        self.set_defaults(forward_chunking=chunking)

    def disable_forward_chunking(self) -> None:
        """Compute feed-forward layers at once by default."""
        self.set_defaults(forward_chunking=None)

    def set_norm_scope(self, resnet: str | None = None, motion: str | None = None) -> None:
        """Set ``resnet_norm_scope`` and ``motion_norm_scope`` (``frame`` or ``clip``) in the config; None keeps."""
        given = {"resnet_norm_scope": resnet, "motion_norm_scope": motion}
        changes = {name: scope for name, scope in given.items() if scope is not None}
        for name, scope in changes.items():
            check_norm_scope(name, scope)
        self.config = self.config.replace(**changes)

    @property
    def attn_processors(self) -> dict[str, Any]:
        """Path of each attention layer with ``.processor`` behind it -> its default processor."""
        return {f"{path}.processor": layer.processor or DEFAULT_PROCESSOR for path, layer in self.attention_layers}

    def set_attn_processor(self, processor: Any) -> None:
        """Set the default processor of all attention layers, or of some.

        Args:
            processor: a name, an object, or a dict. A dict's keys are either all of :attr:`attn_processors`, or
                patterns such as ``*.motion_modules.*``. The dict is left as it was.

        Raises:
            ValueError: an unknown name, a dict of the wrong size, or a pattern that matches nothing.
            KeyError: a dict of the right size with a wrong key.
        """
        for layer, chosen in choose_processors(processor, self.attention_layers).items():
            ip_adapter.set_processor(cast(Attention, layer), chosen)

    def set_default_attn_processor(self) -> None:
        """Back to the processor ``auto`` everywhere; image layers of an IP-Adapter stay."""
        for _, layer in self.attention_layers:
            ip_adapter.set_processor(layer, DEFAULT_PROCESSOR)

    def fuse_qkv_projections(self) -> None:
        """Project queries, keys and values in one product (keys and values in cross-attention); same values."""
        self.set_defaults(fused_projections=True)

    def unfuse_qkv_projections(self) -> None:
        """Undo :meth:`fuse_qkv_projections`."""
        self.set_defaults(fused_projections=False)

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Callable[..., Any] | None = None) -> None:
        """Recompute resnets, transformers and motion modules in the backward pass instead of keeping activations.

        Args:
            gradient_checkpointing_func: called with a layer's function and its inputs in place of that function; the
                default is ``torch.utils.checkpoint.checkpoint`` without reentrance.
        """
        self.checkpointing_function = gradient_checkpointing_func or recomputed
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations for the backward pass."""
        self.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.gradient_checkpointing

    def motion_parts(self) -> list[nn.Module]:
        """The ModuleLists of motion modules, from input to output."""
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [block.motion_modules for block in blocks if hasattr(block, "motion_modules")]

    def arrange_weights(self) -> None:
        """Lay the weights out as the device reads them best, to predict only; no value, name or parameter changes.

        On a graphics card layers that read the same input lie behind each other, and convolutions have channels last;
        moving the model to another device or dtype undoes the former. Not done by itself, as others' functions that
        save (of safetensors, accelerate) leave out or refuse tensors that share memory: :meth:`save_pretrained` does
        not. Where a host reads weights through its own ``weights``, nothing is changed.
        """
        for layers in (self.time_projections.layers, *(attention.same_input for _, attention in self.attention_layers)):
            pack_for(self.device, layers)
        float8_products.arrange(self)
        self._conv_weights.arrange_for(self.device, self)

    def enable_float8_products(self, least_outputs: int = float8_products.LEAST_OUTPUTS) -> list[str]:
        """Round the weights around attention to float8 and multiply in it, for cards that do so at twice the rate.

        Queries, keys, values, outputs, both layers of feed-forward, and ``proj_in`` and ``proj_out`` of transformers
        and motion modules, where their widths are multiples of 16: float8_e4m3fn times one power of two a tensor, or
        for layers that read the same input. What they read is rounded to float8 too; docs/float8.md has the error. On
        other devices the same factors are multiplied in the model's dtype. The model cannot be saved, trained or given
        other motion modules afterwards, and only loading it anew undoes it; LoRAs that are applied stay as they are.

        Args:
            least_outputs: of a product, all layers that read the same input together; smaller ones stay as they are, as
                rounding what they read takes longer than they gain. 0 is all.

        Returns:
            The paths of these layers.

        Raises:
            ValueError: a layer of another kind than torch's, on the device meta, or with weights that are not finite;
                another number of outputs than a whole one.
        """
        return float8_products.enable(self, least_outputs)

    def freeze_unet2d_params(self) -> None:
        """Let only the motion modules train."""
        self.requires_grad_(False)
        for module in (*self.motion_parts(), self.img_encoder):
            if module is not None:
                module.requires_grad_(True)

    @classmethod
    def from_config(cls, config: UNetMotionConfig | dict, **kwargs: Any) -> UNetMotionModel:
        """Build from a configuration object or dictionary; ``kwargs`` are the constructor's (``dtype``, ...)."""
        found = UNetMotionConfig.from_dict(config) if isinstance(config, dict) else config
        return cls(**{name: found[name] for name in found.field_names()}, **kwargs)

    @classmethod
    def from_unet2d(
        cls, unet: nn.Module, motion_adapter: MotionAdapter | None = None, load_weights: bool = True, **kwargs: Any
    ) -> UNetMotionModel:
        """Inflate an image UNet, with the motion modules of an adapter if one is given.

        Without an adapter the result computes exactly the image UNet, frame by frame: the new motion modules end in
        zeros.

        Args:
            unet: a module with the configuration and the parameter names of diffusers' UNet2DConditionModel.
            motion_adapter: ours or diffusers'.
            load_weights: copy the weights of both, not only the configuration.
            kwargs: the constructor's ``operations`` and ``weights``.

        Raises:
            TypeError: one of the two is something else.
            ValueError: a setting of the image UNet that this network does not have, or an adapter that does not fit.
        """
        arguments = inflate.inflated_arguments(unet, motion_adapter)
        first = next(unet.parameters())
        model = cls(**arguments, dtype=first.dtype, device=first.device, **kwargs)
        if load_weights:
            inflate.load_image_unet(model, unet, motion_adapter)
        return model.train(unet.training)

    def load_motion_modules(self, motion_adapter: nn.Module | None) -> None:
        """Copy the weights of an adapter (ours or diffusers') into the motion modules, and its image encoder.

        The position table takes the adapter's length. An adapter without mid block leaves the mid block without
        motion, and the mid block of an adapter is left out by a UNet without motion there; both are warned about.

        Raises:
            ValueError: widths, layers or depths that do not fit.
        """
        if motion_adapter is not None:
            float8_products.refuse(self, "to load motion modules into")
            inflate.load_motion_modules(self, motion_adapter)

    def motion_adapter(self) -> MotionAdapter:
        """The motion modules as an adapter of their own, sharing the weights of this model."""
        float8_products.refuse(self, "to take motion modules from")
        return inflate.motion_adapter(self)

    def motion_adapter_config(self) -> MotionAdapterConfig:
        """The configuration of an adapter that fits this model's motion modules."""
        return inflate.motion_adapter_config(self)

    def save_motion_modules(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the motion modules as a :class:`MotionAdapter` folder; ``kwargs`` as for :meth:`save_pretrained`."""
        scopes = {name: self.config[name] for name in ("resnet_norm_scope", "motion_norm_scope")}
        self.motion_adapter().save_pretrained(save_directory, **{"extra_config": scopes, **kwargs})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any):
        """Read a folder written by :meth:`save_pretrained` or by diffusers."""
        return from_pretrained(cls, pretrained_model_name_or_path, **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write ``config.json`` and safetensors weights that diffusers reads too."""
        float8_products.refuse(self, "to save")
        save_pretrained(self, save_directory, **kwargs)

    def load_ip_adapter(self, state_dicts: Sequence[Mapping[str, Any]] | Mapping[str, Any], scale: float = 1.0) -> None:
        """Set image layers from IP-Adapter files, replacing those that were loaded before.

        Args:
            state_dicts: one or several dicts ``{"image_proj": {...}, "ip_adapter": {...}}`` as published; the
                plain form, whose ``image_proj`` holds ``proj`` and ``norm``.
            scale: strength of each adapter; see :meth:`set_ip_adapter_scale`.

        Raises:
            ValueError: another form of image projection, or layers that do not fit the model.
        """
        ip_adapter.load(self, [state_dicts] if isinstance(state_dicts, Mapping) else state_dicts, scale)

    def attach_ip_adapter(self, state: Mapping[str, Tensor], scale: float = 1.0) -> bool:
        """Build the image layers that ``state`` (diffusers' names) has tensors for; False if it has none."""
        return ip_adapter.attach(self, state, scale)

    def set_ip_adapter_scale(self, scale: float | Sequence[float]) -> None:
        """Strength of the image prompts: one number, or one per adapter; 0 skips an adapter."""
        ip_adapter.set_scale(self, scale)

    def unload_ip_adapter(self) -> None:
        """Remove the image layers and their projection."""
        ip_adapter.unload(self)
