"""What a model is made of, collected once: later looks at its weights and hooks walk no modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from torch import Tensor, nn


class KnownLayers:
    """The layers of a model as they were when this was made.

    A walk over the modules of an SD1.5-sized UNet takes milliseconds, longer than the launch of a whole recorded step;
    the dictionaries in which modules keep weights, hooks and each other stay the same objects, and reading those takes
    a fraction of one.

    Attributes:
        layers: every module, the model first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: tuple[nn.Module, ...] = tuple(model.modules())
        self._parts = [layer._modules for layer in self.layers]
        # A host may give a layer its weights later, but none gets a buffer that its own code does not know.
        self._tensors: list[Mapping[str, Tensor | None]] = [layer._parameters for layer in self.layers]
        self._tensors += [layer._buffers for layer in self.layers if layer._buffers]
        self._hooks = [held for layer in self.layers for held in (layer._forward_hooks, layer._forward_pre_hooks)]
        self._attributes = [layer.__dict__ for layer in self.layers]
        self._known_parts = self._parts_now()

    def now(self) -> KnownLayers:
        """This, or the model's layers anew where one was added, taken away or replaced."""
        return self if self._parts_now() == self._known_parts else KnownLayers(self.model)

    def places(self) -> tuple[int, ...]:
        """Where the parameters and buffers lie in memory, in an order that stays."""
        held = chain.from_iterable(held.values() for held in self._tensors)
        return tuple([tensor.data_ptr() for tensor in held if tensor is not None])

    def with_other_code(self) -> nn.Module | None:
        """The first layer that runs code which is not its own and not marked ``replayable``, or None."""
        if not any(self._hooks) and not any("forward" in held for held in self._attributes):
            return None
        for layer in self.layers:
            hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
            if "forward" in layer.__dict__ or not all(getattr(hook, "replayable", False) for hook in hooks):
                return layer
        return None

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.layers)

    def _parts_now(self) -> list[nn.Module | None]:
        return list(chain.from_iterable(map(dict.values, self._parts)))
