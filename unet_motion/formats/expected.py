"""The parameters that a model of a given configuration has, without building their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from torch import nn

from ..config.adapter import MotionAdapterConfig
from ..config.unet import UNetMotionConfig
from .errors import KeyMismatchError, name_some


@lru_cache(maxsize=8)
def unet_shapes(config: UNetMotionConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters and position tables of a ``UNetMotionModel``; do not change the result."""
    from ..model import UNetMotionModel

    return _shapes(UNetMotionModel.from_config(config, device="meta"))


@lru_cache(maxsize=8)
def adapter_shapes(config: MotionAdapterConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters and position tables of a ``MotionAdapter``; do not change the result."""
    from ..motion import MotionAdapter

    return _shapes(MotionAdapter.from_config(config, device="meta"))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def shapes_for(config: UNetMotionConfig | MotionAdapterConfig) -> dict[str, tuple[int, ...]]:
    """:func:`unet_shapes` or :func:`adapter_shapes`.

    Not read off a model that is being loaded: layers that a host injects may have no parameters until then.
    """
    return unet_shapes(config) if isinstance(config, UNetMotionConfig) else adapter_shapes(config)


def is_image_layer(key: str) -> bool:
    """Whether a name is that of an IP-Adapter's layers, which a configuration does not speak of."""
    return key.startswith("encoder_hid_proj.") or ".processor.to_" in key


def is_table(key: str) -> bool:
    """Whether a name is that of a position table, which can be computed where a file leaves it out."""
    return key.endswith(".pos_embed.pe")


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
