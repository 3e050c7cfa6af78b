"""Which attention processor each layer takes in a call."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..ops.attention.processors import get_processor
from ..values import quoted


class ProcessorPlan:
    """A name, an object, or a dict from path pattern to either, resolved once and looked up by attention path.

    Patterns are shell-style (``*.motion_modules.*``) and match the attention's path with or without
    ``.processor``; the last matching pattern wins. Where torch cannot trace regular expressions, a pattern with ``?``
    or ``[`` in the options of a compiled call breaks its graph.
    """

    def __init__(self, spec: Any):
        if isinstance(spec, Mapping):
            self.rules = [(str(pattern), get_processor(p)) for pattern, p in spec.items()]
        else:
            self.rules = [("*", get_processor(spec))]
        self._found: dict[str, Any] = {}

    def lookup(self, path: str) -> Any | None:
        """The processor for an attention at ``path``, or None where no pattern matches."""
        if path not in self._found:
            self._found[path] = next((p for rule, p in reversed(self.rules) if _matches(rule, path)), None)
        return self._found[path]

    def by_layer(self, layers: Sequence[tuple[str, nn.Module]]) -> dict[nn.Module, Any]:
        """The processors for attention layers, given with their paths; layers that no pattern matches are left out.

        Raises:
            ValueError: a pattern that matches nothing.
        """
        self.check(path for path, _ in layers)
        chosen = {layer: self.lookup(path) for path, layer in layers}
        return {layer: processor for layer, processor in chosen.items() if processor is not None}

    def check(self, paths: Iterable[str]) -> None:
        """Raise ValueError for a pattern that matches none of the model's attention paths."""
        paths = list(paths)
        for rule, _ in self.rules:
            if not any(_matches(rule, path) for path in paths):
                raise ValueError(
                    f"attention processor pattern {quoted(rule)} matches none of the {len(paths)} attention layers."
                )


def choose_processors(spec: Any, layers: Sequence[tuple[str, nn.Module]]) -> dict[nn.Module, Any]:
    """The processor of attention layers, given with their paths; layers that no pattern matches are left out.

    Args:
        spec: a name, an object, or a dict whose keys are patterns, or the paths of all layers with ``.processor``.

    Raises:
        ValueError: an unknown name, a dict of the wrong size, or a pattern that matches nothing.
        KeyError: a dict of the right size with a wrong key.
    """
    if not isinstance(spec, Mapping) or any(set(key) & set("*?[") for key in spec):
        return ProcessorPlan(spec).by_layer(layers)
    if len(spec) != len(layers):
        raise ValueError(
            f"A dict of processors was passed, but the number of processors {len(spec)} does not match the "
            f"number of attention layers: {len(layers)}. Please make sure to pass {len(layers)} processors, or "
            "patterns such as '*.motion_modules.*'."
        )
    missing = [path for path, _ in layers if f"{path}.processor" not in spec]
    if missing:
        raise KeyError(f"{missing[0]}.processor")
    return {layer: get_processor(spec[f"{path}.processor"]) for path, layer in layers}


def _matches(rule: str, path: str) -> bool:
    return matches(path, rule) or matches(f"{path}.processor", rule)


def matches(text: str, pattern: str) -> bool:
    """`fnmatch.fnmatchcase`; in steps that torch.compile can trace where the pattern's only sign is `*`."""
    if "?" in pattern or "[" in pattern:
        return fnmatch.fnmatchcase(text, pattern)
    first, *others = pattern.split("*")
    if not others:
        return text == first
    if not text.startswith(first):
        return False
    end = len(first)
    for part in others[:-1]:
        begin = text.find(part, end)
        if begin < 0:
            return False
        end = begin + len(part)
    return len(text) - len(others[-1]) >= end and text.endswith(others[-1])
