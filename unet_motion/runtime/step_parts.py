"""A step of the network in two parts: all but the last layers, which change little from step to step, and those.

DeepCache (Ma et al., 2023, https://arxiv.org/abs/2312.00858) keeps what the deep part gives for some steps. Here it is
the hidden state before the last layers of the last up block, motion modules included.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..forward.conditioning import Conditioning
from ..forward.options import ForwardOptions
from ..model.blocks import Skips


def most_layers(unet) -> int:
    """Layers of the last up block, which is how many a step may end in at most."""
    return len(unet.up_blocks[-1].resnets)


class StepParts:
    """Steps of a :class:`unet_motion.model.unet.MotionUNet`, whole with the deep part's result, or the end alone.

    Args:
        layers: of the last up block, from its end, that every step computes; None is the whole block.

    Raises:
        ValueError: layers that the block does not have.
    """

    def __init__(self, unet, layers: int | None = None) -> None:
        most = most_layers(unet)
        if layers is not None and not 1 <= layers <= most:
            raise ValueError(f"`layers` is {layers}, expected 1 to {most}, the layers of the model's last up block.")
        self.unet = unet
        self.layers = most if layers is None else layers

    def full(
        self, sample: Tensor, timestep: Any, text: Tensor, num_frames: int, *, options: ForwardOptions | None = None,
        **conditioning: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As `forward_frames`, with the hidden state (B*F, C, H, W) before the last layers behind it."""
        inputs = Conditioning(**conditioning)
        call = self.unet.begin_call(sample, timestep, text, num_frames, inputs, options)
        skips = _Watched(call, len(self.unet.up_blocks), self._first_stage())
        out = self.unet.through(sample, call, skips, inputs)
        assert skips.deep is not None  # each layer takes its skip
        return out, skips.deep

    def shallow(
        self, sample: Tensor, timestep: Any, text: Tensor, num_frames: int, *, deep: Tensor,
        options: ForwardOptions | None = None, **conditioning: Any,
    ) -> Tensor:  # fmt: skip
        """As `forward_frames`, with ``deep`` in the place of what the deep part would give.

        A ControlNet's residuals act on the skips of the last layers; on the deep part they acted when it was computed.
        """
        unet, inputs = self.unet, Conditioning(**conditioning)
        call = unet.begin_call(sample, timestep, text, num_frames, inputs, options)
        skips = Skips(call, len(unet.up_blocks))
        x, first = unet.enter(sample, skips), unet.down_blocks[0]
        features = call.features_of(list(unet.down_blocks))[0]
        for i in range(self.layers - 1):
            x = first.kept_layer(i, x, call, skips, features)
        residuals = inputs.down_block_additional_residuals
        skips.add(None if residuals is None else residuals[: self.layers])
        skips.outputs = self._first_stage()
        x, last = deep, unet.up_blocks[-1]
        for i in range(most_layers(unet) - self.layers, most_layers(unet)):
            x = last.joined_layer(i, x, call, skips)
        return unet.leave(x, call)

    def _first_stage(self) -> int:
        """The number of the output stage that the last layers begin with."""
        return sum(len(block.resnets) for block in self.unet.up_blocks) - self.layers


class _Watched(Skips):
    """Skips that keep the hidden state with which a stage begins."""

    def __init__(self, call: Any, levels: int, stage: int) -> None:
        super().__init__(call, levels)
        self.stage = stage
        self.deep: Tensor | None = None

    def pop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.outputs == self.stage:
            self.deep = x
        return super().pop(x)
