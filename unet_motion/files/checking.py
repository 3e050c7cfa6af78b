"""Tensors that are found against those that are expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import KeyMismatchError, name_some
from .names import is_table

Shapes = Mapping[str, Sequence[int]]


@lru_cache(maxsize=16)
def shapes_of(cls: Any, config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters and position tables of a model that has a configuration; do not change them.

    Not read off a model that is being loaded: layers that a host injects may have no parameters until then.
    """
    model = cls.from_config(config, device="meta")
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def compare(
    found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing (position tables aside), unexpected, and of another shape."""
    missing = [key for key in expected if key not in found and not is_table(key)]
    unexpected = [key for key in found if key not in expected]
    mismatched = [key for key in found if key in expected and tuple(found[key]) != tuple(expected[key])]
    return missing, unexpected, mismatched


def check_shapes(
    path: str | Path, found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]], words: str
) -> None:
    """Raise KeyMismatchError unless every tensor is there, none is left over and all shapes agree.

    Args:
        words: what the tensors should make up, e.g. ``a motion module``.
    """
    missing, unexpected, mismatched = compare(found, expected)
    if mismatched:
        key = mismatched[0]
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        raise KeyMismatchError(
            f"{path}: tensor {key} has shape {list(found[key])}{more}, expected {list(expected[key])} in {words}."
        )
    if missing or unexpected:
        parts = _parts(("missing", missing), ("not expected", unexpected))
        raise KeyMismatchError(f"{path}: does not hold exactly the tensors of {words}: {parts}.")


def _parts(*groups: tuple[str, Iterable[str]]) -> str:
    return "; ".join(f"{len(list(keys))} {words}: {name_some(keys)}" for words, keys in groups if keys)
