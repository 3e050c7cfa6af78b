"""The structure of a motion module of which a file holds some blocks only.

Each block tells the width of its level, and how many motion modules a block has. Levels of which nothing is there are
those of the published UNets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ...files.errors import FileFormatError, KeyMismatchError, name_some
from ..kinds import PUBLISHED_WIDTHS
from .blocks import BlockReader

Place = tuple[str, int]
"""``down_blocks``, ``mid_block`` or ``up_blocks``, and the block's number."""


def partial_layers(reader: BlockReader) -> tuple[tuple[int, ...], int, list[int], list[int]]:
    """Widths of all levels, motion modules per block, depths of all blocks down and up.

    Raises:
        KeyMismatchError: blocks that contradict each other or do not tell the structure.
    """
    places = [("down_blocks", i) for i in sorted(reader.motion_blocks("down_blocks"))]
    places += [("up_blocks", i) for i in sorted(reader.motion_blocks("up_blocks"))]
    mid = [("mid_block", 0)] if reader.count("mid_block.motion_modules") else []
    widths = _all_widths(
        {place: reader.shape(f"{_name(place)}.motion_modules.0.norm.weight", 1)[0] for place in places + mid},
        reader.path,
    )
    layers = _same_number(
        {place: reader.count(f"{_name(place)}.motion_modules") - (place[0] == "up_blocks") for place in places},
        "motion modules in a block",
        reader.path,
    )
    depths = {place: _same_depth(reader, place) for place in places}
    usual = next(iter(depths.values()), 1)
    levels = range(len(widths))
    down = [depths.get(("down_blocks", i), depths.get(("up_blocks", levels[-1] - i), usual)) for i in levels]
    up = [depths.get(("up_blocks", i), down[levels[-1] - i]) for i in levels]
    return widths, layers, down, up


def _name(place: Place) -> str:
    return place[0] if place[0] == "mid_block" else f"{place[0]}.{place[1]}"


def _level(place: Place, levels: int) -> int:
    return {"down_blocks": place[1], "mid_block": levels - 1, "up_blocks": levels - 1 - place[1]}[place[0]]


def _all_widths(found: Mapping[Place, int], path) -> tuple[int, ...]:
    """Widths of all levels: those of the one published UNet that has such blocks, else as many as the blocks count.

    Raises:
        KeyMismatchError: no UNet or more than one.
    """
    if not found:
        raise KeyMismatchError(f"{path}: holds no block of a motion module, expected at least one.")
    names = name_some(map(_name, found))
    least = max((place[1] + 1 for place in found if place[0] != "mid_block"), default=1)
    by_level = {_level(place, least): width for place, width in reversed(list(found.items()))}
    counted = tuple(by_level[level] for level in sorted(by_level)) if len(by_level) == least else None
    if counted is not None and counted in PUBLISHED_WIDTHS:
        return counted
    fitting = [
        widths
        for widths in PUBLISHED_WIDTHS
        if len(widths) >= least and all(widths[_level(place, len(widths))] == width for place, width in found.items())
    ]
    if len(fitting) > 1:
        listed = " and of ".join(str(list(widths)) for widths in fitting)
        raise KeyMismatchError(
            f"{path}: its motion modules ({names}) fit UNets with block widths of {listed}, expected enough blocks to "
            "tell which."
        )
    if fitting:
        return fitting[0]
    if counted is None:
        raise KeyMismatchError(
            f"{path}: has motion modules in {names} only, from which the widths of {least} levels cannot be told."
        )
    return counted


def _same_number(counts: Mapping[Place, int], words: str, path) -> int:
    """The number that all blocks agree on; 2, as everywhere, where only the mid block is there."""
    if len(set(counts.values())) > 1:
        usual = Counter(counts.values()).most_common(1)[0][0]
        odd = next(place for place, count in counts.items() if count != usual)
        extra = odd[0] == "up_blocks"
        raise KeyMismatchError(
            f"{path}: {_name(odd)} has {counts[odd] + extra} {words}, expected {usual + extra} as the other blocks "
            "imply: a block is there as a whole or not at all."
        )
    return next(iter(counts.values()), 2)


def _same_depth(reader: BlockReader, place: Place) -> int:
    depths = reader.motion_depths(_name(place))
    if len(set(depths)) != 1 or not depths[0]:
        raise FileFormatError(
            f"{reader.path}: the motion modules of {_name(place)} have {depths} transformer blocks, expected the same "
            "number in each."
        )
    return depths[0]
