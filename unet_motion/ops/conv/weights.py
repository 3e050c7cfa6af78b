"""In which order the weights of convolutions lie."""

from __future__ import annotations

import torch
from torch import nn

from ..layer import is_own, on_card


class ConvWeights:
    """Channels last on a graphics card: else each call of channels-last input copies the weights into that order."""

    def __init__(self) -> None:
        self._moved = False

    def arrange_for(self, device: torch.device, network: nn.Module) -> None:
        """Lay the network's weights out for a card; elsewhere they stay as they are, as they may only wait there."""
        if on_card(device):
            _lay_out(network, torch.channels_last)
            self._moved = True

    def ready_for(self, device: torch.device, network: nn.Module) -> None:
        """Before a call: elsewhere than on a card as they were before the first card."""
        if self._moved and not on_card(device) and not torch.compiler.is_compiling():
            _lay_out(network, torch.contiguous_format)
            self._moved = False


@torch.no_grad()
def _lay_out(network: nn.Module, order: torch.memory_format) -> None:
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d) and is_own(conv, nn.Conv2d) and not conv.weight.is_inference():
            conv.weight.data = conv.weight.data.contiguous(memory_format=order)
