"""What the configurations of the motion UNet and of the motion adapter share: reading, writing and checking fields."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar, cast

from ..values import quoted
from .checks import check_fields, default_fields

PerBlock = int | tuple


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


def _thaw(value: Any) -> Any:
    return [_thaw(v) for v in value] if isinstance(value, tuple) else value


class ConfigBase:
    """Dictionary-like access and JSON form shared by the two configurations."""

    class_name: ClassVar[str]

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def __contains__(self, name: str) -> bool:
        return name in self.field_names()

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        return tuple(f.name for f in dataclasses.fields(cast(Any, cls)))

    def keys(self) -> tuple[str, ...]:
        return self.field_names()

    def to_dict(self) -> dict[str, Any]:
        """All fields with tuples as lists, ready for JSON."""
        values = {name: _thaw(getattr(self, name)) for name in self.field_names()}
        if not values["use_image_encoder"]:  # of which diffusers knows nothing
            del values["use_image_encoder"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]):
        """Build from a dictionary, e.g. a read ``config.json``; keys that are not fields are warned about by name."""
        known = set(cls.field_names())
        skipped = default_fields(values)
        unknown = sorted(k for k in values if k not in known and not k.startswith("_"))
        if unknown:
            some = ", ".join(name[:60] for name in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
            warnings.warn(f"{cls.class_name}: unknown configuration keys are ignored: {some}", stacklevel=2)
        return cls(**{k: v for k, v in values.items() if k in known and k not in skipped})

    def replace(self, **changes: Any):
        return dataclasses.replace(cast(Any, self), **changes)

    def _freeze_fields(self) -> None:
        check_fields(self)
        for name in self.field_names():
            object.__setattr__(self, name, _freeze(getattr(self, name)))


def check_length(name: str, value: Any, blocks: int, blocks_name: str) -> None:
    if isinstance(value, tuple) and len(value) != blocks:
        raise ValueError(
            f"Must provide the same number of `{name}` as `{blocks_name}`. "
            f"`{name}`: {value} has {len(value)} entries, `{blocks_name}` has {blocks}."
        )


def check_numbers(name: str, value: Any, least: int = 1) -> None:
    for entry in value if isinstance(value, tuple) else (value,):
        if isinstance(entry, tuple):
            check_numbers(name, entry, least)
        elif not isinstance(entry, int) or isinstance(entry, bool) or entry < least:
            raise ValueError(
                f"`{name}` must hold whole numbers of at least {least}, found {quoted(entry)} in {quoted(value)}."
            )


def check_motion_heads(name: str, heads: tuple[int, ...], width: int) -> None:
    check_numbers(name, heads)
    for count in heads:
        if count * (width // count) % 2 or width < count:
            raise ValueError(
                f"`{name}` {count} on a block of width {width} gives an inner width of "
                f"{count * (width // count)}; the position table needs an even, positive one."
            )


def per_block(value: PerBlock, blocks: int) -> tuple:
    return value if isinstance(value, tuple) else (value,) * blocks


def per_layer(name: str, value: PerBlock, layers: int) -> tuple[int, ...]:
    if isinstance(value, tuple):
        if len(value) != layers:
            raise ValueError(f"`{name}` must be an integer or {layers} integers, one per layer, got {value}.")
        return value
    return (value,) * layers
