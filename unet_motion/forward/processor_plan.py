"""Which attention processor each layer takes in a call."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..ops.attention.processors import get_processor
from ..values import quoted


class _Rule:
    """A pattern and its processor."""

    def __init__(self, pattern: str, processor: Any):
        self.pattern, self.processor = pattern, processor
        # Made here: torch.compile cannot trace how a regular expression is made.
        self._names = re.compile(fnmatch.translate(pattern)) if set(pattern) & set("?[") else None

    def matches(self, path: str) -> bool:
        """Whether an attention's path matches, with or without ``.processor``."""
        return self._is(path) or self._is(f"{path}.processor")

    def _is(self, text: str) -> bool:
        return matches_stars(text, self.pattern) if self._names is None else self._names.match(text) is not None


class ProcessorPlan:
    """A name, an object, or a dict from path pattern to either, resolved once and looked up by attention path.

    Patterns are shell-style (``*.motion_modules.*``) and match the attention's path with or without
    ``.processor``; the last matching pattern wins.
    """

    def __init__(self, spec: Any):
        if isinstance(spec, Mapping):
            self.rules = [_Rule(str(pattern), get_processor(p)) for pattern, p in spec.items()]
        else:
            self.rules = [_Rule("*", get_processor(spec))]
        self._found: dict[str, Any] = {}

    def lookup(self, path: str) -> Any | None:
        """The processor for an attention at ``path``, or None where no pattern matches."""
        if torch.compiler.is_compiling():  # what is kept would make another graph of the next call
            return self._search(path)
        if path not in self._found:
            self._found[path] = self._search(path)
        return self._found[path]

    def _search(self, path: str) -> Any | None:
        return next((rule.processor for rule in reversed(self.rules) if rule.matches(path)), None)

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
        for rule in self.rules:
            if not any(rule.matches(path) for path in paths):
                found = f"attention processor pattern {quoted(rule.pattern)} matches none of the "
                raise ValueError(f"{found}{len(paths)} attention layers.")


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


def matches_stars(text: str, pattern: str) -> bool:
    """`fnmatch.fnmatchcase` of a pattern whose only sign is `*`, in steps that any torch.compile can trace."""
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
