"""The weights of motion modules, and what is known of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config.adapter import MotionAdapterConfig
from ..config.unet import NORM_SCOPES
from ..files.assign import assign
from ..files.errors import FileFormatError
from ..files.names import is_table
from ..model.motion_adapter import MotionAdapter
from .infer.absent_blocks import idle_values, present_blocks
from .kinds import MOTION_MODULES, PUBLISHED_WIDTHS, MotionKind, recognise
from .positions import UNCHANGED, PositionOptions, adjust_table
from .shapes import adapter_shapes


@dataclass(frozen=True)
class MotionModule:
    """The weights of motion modules, with diffusers' names, and what is known of them.

    Attributes:
        kind: a key of ``MOTION_MODULES`` (``v1``, ``hotshot``, ...) for original files, ``diffusers`` for an adapter.
        version: which of them has this structure, also for an adapter; None for any other.
        state_dict: tensors as in ``MotionAdapter.state_dict()``, but of the blocks that the file has.
        config: the adapter's configuration.
        resnet_norm_scope, motion_norm_scope: how it was trained (``frame`` or ``clip``).
        path: the file or folder.
        positions: how its position tables were changed after loading.
        is_as_in_file: whether the file gives these weights again; merged and scaled ones are no file's.

    The configuration is always that of all blocks; see :meth:`whole_state` for their weights.
    """

    kind: str
    version: str | None
    state_dict: dict[str, torch.Tensor]
    config: MotionAdapterConfig
    resnet_norm_scope: str
    motion_norm_scope: str
    path: Path
    positions: PositionOptions = UNCHANGED
    is_as_in_file: bool = True

    @property
    def norm_scopes(self) -> tuple[str, str]:
        """``(resnet_norm_scope, motion_norm_scope)``."""
        return self.resnet_norm_scope, self.motion_norm_scope

    @property
    def published(self) -> MotionKind | None:
        """What is known of its training: schedule, frames, sampler."""
        kind = MOTION_MODULES.get(self.version or "")
        return None if kind is None else kind.of_file(self.path.name)

    @property
    def blocks(self) -> tuple[str, ...] | None:
        """The blocks that have motion, such as ``down_blocks.0``, where some have none; None for all."""
        return present_blocks(self.state_dict, adapter_shapes(self.config))

    def whole_state(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """The tensors of all blocks; those that the file leaves out get motion modules that change nothing.

        Args:
            dtype: of what is added; default is that of the weights.
        """
        shapes = adapter_shapes(self.config)
        absent = [name for name in shapes if name not in self.state_dict]
        if not absent:
            return dict(self.state_dict)
        weight = next(t for k, t in self.state_dict.items() if not is_table(k))
        added = idle_values(absent, shapes, dtype or weight.dtype, weight.device)
        return {name: self.state_dict[name] if name in self.state_dict else added[name] for name in shapes}

    @property
    def words(self) -> str:
        """What to call it in a sentence, with its block widths."""
        widths = ", ".join(map(str, self.config.block_out_channels))
        return f"{self.published.title if self.published else 'a'} motion module (block widths {widths})"

    def to_adapter(self, operations: Any = None) -> MotionAdapter:
        """A MotionAdapter that shares these tensors."""
        dtype = next(t.dtype for k, t in self.state_dict.items() if not is_table(k))
        adapter = MotionAdapter.from_config(self.config, operations=operations, dtype=dtype, device="meta")
        device = next(iter(self.state_dict.values())).device
        return assign(adapter, self.whole_state(), dtype, device)

    @classmethod
    def from_adapter(cls, adapter: MotionAdapter, path: str | Path = "MotionAdapter") -> MotionModule:
        """The weights of an adapter, shared with it."""
        version = published_version(adapter.config)
        scopes = MOTION_MODULES[version].norm_scopes if version else NORM_SCOPES["diffusers"]
        state = {key: value.detach() for key, value in adapter.state_dict().items()}
        return cls("diffusers", version, state, adapter.config, *scopes, Path(path))


def published_version(config: MotionAdapterConfig, file_name: str = "") -> str | None:
    """The published module with this structure and these widths, in a file of this name, or None."""
    kind = recognise(config, file_name=file_name) if config.block_out_channels in PUBLISHED_WIDTHS else None
    return kind.name if kind else None


def with_positions(module: MotionModule, options: PositionOptions) -> MotionModule:
    """Motion modules of any kind with all their tables changed, computed ones too.

    Raises:
        FileFormatError: no row is left.
    """
    if not options:
        return module
    try:
        state = {k: adjust_table(v, options) if is_table(k) else v for k, v in module.state_dict.items()}
    except ValueError as error:
        raise FileFormatError(f"{module.path}: {error}") from None
    rows = next(v.shape[1] for k, v in state.items() if is_table(k))
    config = module.config.replace(motion_max_seq_length=rows)
    return dataclasses.replace(module, state_dict=state, config=config, positions=options)
