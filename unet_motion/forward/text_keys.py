"""Keys and values of a text, computed once for all steps of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


class TextKeys:
    """What cross-attention layers make of a text, kept from call to call (``ForwardOptions(text_keys=TextKeys())``).

    It holds one text: with another tensor it starts anew, and so does a layer whose weights were replaced or edited.
    Edits that torch does not count, through ``.data`` or in inference mode, are not noticed: use a new object then.
    """

    def __init__(self) -> None:
        self._text: Tensor | None = None
        self._mark: object = None
        self._kept: dict[tuple[nn.Module, ...], tuple[object, Pair]] = {}

    def start(self, text: Tensor | None) -> bool:
        """Begin a call with a text (rows, L, D); False where nothing is kept: with gradients and in compiled code."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        mark = None if text is None else _mark(text)
        if text is not self._text or mark != self._mark:
            self._text, self._mark = text, mark
            self._kept.clear()
        return True

    def get(self, layers: tuple[nn.Module, ...], compute: Callable[[], Pair]) -> Pair:
        """The keys and values that come from the weights of ``layers``."""
        mark = tuple(_mark(cast(nn.Linear, layer).weight) for layer in layers)
        kept = self._kept.get(layers)
        if kept is None or kept[0] != mark:
            kept = self._kept[layers] = (mark, compute())
        return kept[1]


def _mark(tensor: Tensor) -> tuple[int, int | None]:
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version
