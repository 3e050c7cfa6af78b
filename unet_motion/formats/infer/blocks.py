"""The blocks of a network, counted by the names of its tensors, and what their numbers are as a configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ...files.checking import Shapes
from ...files.claims import check_dimensions
from ...files.errors import FileFormatError, KeyMismatchError, name_some


class Block:
    """What the names of one block tell."""

    def __init__(self, width: int, layers: int, depths: list[int], linear: bool, text_dims: set[int]) -> None:
        self.width, self.layers, self.depths, self.linear, self.text_dims = width, layers, depths, linear, text_dims


class BlockReader:
    """Shapes by name, with errors that name the file."""

    def __init__(self, shapes: Shapes, path: str | Path) -> None:
        self.shapes, self.path = shapes, path
        self._children: dict[str, set[int]] = {}
        number = re.compile(r"\.(\d+)(?=\.)")
        for key in shapes:
            for match in islice(number.finditer(key), 4):  # no name has more
                self._children.setdefault(key[: match.start()], set()).add(int(match.group(1)))

    def shape(self, key: str, dimensions: int | None = None) -> Sequence[int]:
        if key not in self.shapes:
            raise KeyMismatchError(f"{self.path}: tensor {key} is missing, expected a whole UNet or motion module.")
        if dimensions is not None:
            check_dimensions(self.path, key, tuple(self.shapes[key]), dimensions)
        return self.shapes[key]

    def count(self, prefix: str) -> int:
        """Number of children, which are counted from 0 without holes."""
        found = self._children.get(prefix, set())
        if found != set(range(len(found))):
            raise KeyMismatchError(
                f"{self.path}: {prefix} has entries {name_some(map(str, sorted(found)))}, expected them numbered from "
                "0 without holes."
            )
        return len(found)

    def motion_blocks(self, way: str) -> set[int]:
        """Numbers of the blocks of one way that have motion modules."""
        return {i for i in self._children.get(way, ()) if self._children.get(f"{way}.{i}.motion_modules")}

    def motion_depths(self, block: str) -> list[int]:
        """Transformer blocks of each motion module of a block."""
        modules = range(self.count(f"{block}.motion_modules"))
        return [self.count(f"{block}.motion_modules.{i}.transformer_blocks") for i in modules]

    def block(self, name: str) -> Block:
        layers, attentions = self.count(f"{name}.resnets"), self.count(f"{name}.attentions")
        width = self.shape(f"{name}.resnets.0.conv1.weight", 4)[0]
        depths = [self.count(f"{name}.attentions.{i}.transformer_blocks") for i in range(attentions)]
        text_dims, linear = set(), False
        for i in range(attentions):
            linear |= len(self.shape(f"{name}.attentions.{i}.proj_in.weight")) == 2
            text_dims.add(self.shape(f"{name}.attentions.{i}.transformer_blocks.0.attn2.to_k.weight", 2)[1])
        return Block(width, layers, depths, linear, text_dims)


def collapse(values) -> Any:
    """One number where all entries agree, else the tuple of them."""
    values = tuple(values)
    return values[0] if values and all(v == values[0] for v in values) else values


def symmetric(down: list[Any], up: list[Any]) -> tuple[Any, Any]:
    """Depths per block, and those of the way up where they are not the way down reversed."""
    mirrored = list(reversed(down)) == up and not any(isinstance(depth, tuple) for depth in down)
    return collapse(down), None if mirrored else tuple(up)


def check_groups(widths: Sequence[int], name: str, path: str | Path) -> None:
    """Raise FileFormatError where norms of 32 groups, which all families have, do not divide the widths."""
    if any(width % 32 for width in widths):
        raise FileFormatError(
            f"{path}: block widths {list(widths)} are not multiples of 32, and `{name}` cannot be seen in a file: "
            "use a folder with a config.json."
        )
