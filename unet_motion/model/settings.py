"""The settings of a model: the defaults that every call starts from, and which parameters train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..config.unet import check_norm_scope
from ..forward.freeu import FreeU
from ..forward.options import check_chunking
from ..forward.processor_plan import ProcessorPlan
from ..forward.settings import Settings
from ..ops.attention.processors import DEFAULT_PROCESSOR, AttentionProcessor, get_processor
from .attention import Attention


class SettingsMixin:
    """Setters of :class:`unet_motion.UNetMotionModel` with diffusers' names."""

    def _init_settings(self) -> None:
        self.gradient_checkpointing = False
        self._defaults = Settings()
        modules = list(self.named_modules())
        # A tuple hides the layers from nn.Module, which has them under their own names already.
        self.attention_layers = tuple((path, m) for path, m in modules if isinstance(m, Attention))
        # Not by their weights, which a host may load later.
        linear = (path for path, module in modules if hasattr(module, "in_features"))
        self._motion_paths = {path for path in linear if ".motion_modules." in path}
        self.text_widths = {a.context_dim for _, a in self.attention_layers if a.is_cross_attention}

    @property
    def defaults(self) -> Settings:
        """What every call starts from."""
        return replace(
            self._defaults,
            resnet_norm_scope=self.config.resnet_norm_scope,
            motion_norm_scope=self.config.motion_norm_scope,
            checkpointing=self.gradient_checkpointing,
        )

    def _set_defaults(self, **changes: Any) -> None:
        self._defaults = replace(self._defaults, **changes)

    def motion_layer(self, path: str) -> nn.Module | None:
        """The linear layer of a motion module at a path in the UNet, or None."""
        return self.get_submodule(path) if path in self._motion_paths else None

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float, version: str = "v1") -> None:
        """Apply FreeU by default; see :class:`FreeU` for the factors."""
        self._set_defaults(freeu=FreeU(s1=s1, s2=s2, b1=b1, b2=b2, version=version))

    def disable_freeu(self) -> None:
        """No FreeU by default."""
        self._set_defaults(freeu=None)

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Compute feed-forward layers ``chunk_size`` (default 1) entries at a time, for less memory.

        Args:
            chunk_size: any size; the last chunk may be short.
            dim: 0 for the batch (frames in spatial, pixels in motion layers), 1 for the sequence (the reverse).
        """
        chunking = (1 if chunk_size is None else chunk_size, dim)
        check_chunking(chunking)
        self._set_defaults(forward_chunking=chunking)

    def disable_forward_chunking(self) -> None:
        """Compute feed-forward layers at once by default."""
        self._set_defaults(forward_chunking=None)

    def set_norm_scope(self, resnet: str | None = None, motion: str | None = None) -> None:
        """Set ``resnet_norm_scope`` and ``motion_norm_scope`` (``frame`` or ``clip``) in the config; None keeps."""
        changes = {"resnet_norm_scope": resnet, "motion_norm_scope": motion}
        changes = {name: scope for name, scope in changes.items() if scope is not None}
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
        if not isinstance(processor, Mapping):
            for _, attention in self.attention_layers:
                _assign(attention, get_processor(processor))
            return
        if any(set(key) & set("*?[") for key in processor):
            plan = ProcessorPlan(processor)
            plan.check(path for path, _ in self.attention_layers)
            chosen = {path: plan.lookup(path) for path, _ in self.attention_layers}
        else:
            self._check_processor_keys(processor)
            chosen = {path: get_processor(processor[f"{path}.processor"]) for path, _ in self.attention_layers}
        for path, attention in self.attention_layers:
            if chosen[path] is not None:
                _assign(attention, chosen[path])

    def _check_processor_keys(self, processors: Mapping[str, Any]) -> None:
        if len(processors) != len(self.attention_layers):
            raise ValueError(
                f"A dict of processors was passed, but the number of processors {len(processors)} does not match the "
                f"number of attention layers: {len(self.attention_layers)}. Please make sure to pass "
                f"{len(self.attention_layers)} processors, or patterns such as '*.motion_modules.*'."
            )
        missing = [p for p, _ in self.attention_layers if f"{p}.processor" not in processors]
        if missing:
            raise KeyError(f"{missing[0]}.processor")

    def set_default_attn_processor(self) -> None:
        """Back to the processor ``auto`` everywhere; image layers of an IP-Adapter stay."""
        for _, attention in self.attention_layers:
            _assign(attention, DEFAULT_PROCESSOR)

    def fuse_qkv_projections(self) -> None:
        """Project queries, keys and values in one product (keys and values in cross-attention); same values."""
        self._set_defaults(fused_projections=True)

    def unfuse_qkv_projections(self) -> None:
        """Undo :meth:`fuse_qkv_projections`."""
        self._set_defaults(fused_projections=False)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute resnets, transformers and motion modules in the backward pass instead of keeping activations."""
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations for the backward pass."""
        self.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.gradient_checkpointing

    def freeze_unet2d_params(self) -> None:
        """Let only the motion modules train."""
        self.requires_grad_(False)
        for module in (*self.motion_parts(), self.img_encoder):
            if module is not None:
                module.requires_grad_(True)

    def motion_parts(self) -> list[nn.Module]:
        """The ModuleLists of motion modules, from input to output."""
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [block.motion_modules for block in blocks if block.motion_modules is not None]


def _assign(attention: Attention, processor: Any) -> None:
    current = attention.processor
    if isinstance(current, nn.Module) and isinstance(processor, AttentionProcessor):
        # The image layers of an IP-Adapter live in the processor's place and stay there.
        current.kernel = processor
        return
    if isinstance(current, nn.Module):
        del attention.processor
    attention.processor = processor
