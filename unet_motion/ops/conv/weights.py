"""In which order the weights of convolutions lie."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..layer import is_own, on_card


class ConvWeights:
    """Channels last on a graphics card: else each call of channels-last input copies the weights into that order."""

    def __init__(self) -> None:
        self._moved = False

    @torch.no_grad()
    def arrange_for(self, device: torch.device, convs: Iterable[nn.Conv2d]) -> None:
        """Lay the weights out for a device; elsewhere than on a card as they were before the first card."""
        here = on_card(device)
        if not here and not self._moved:
            return
        order = torch.channels_last if here else torch.contiguous_format
        for conv in convs:
            if is_own(conv, nn.Conv2d) and not conv.weight.is_inference():
                conv.weight.data = conv.weight.data.contiguous(memory_format=order)
        self._moved = here
