"""One canvas of a page graph as JSON, in which a node makes way for several."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .graph import Counters
from .table import ROWS, TARGETS

End = tuple[Any, int]
Value = tuple[Any, str | None, Any]
"""A node inside, its widget or None for all, and a value."""

NAMES = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


@dataclass
class Part:
    """What an instance stands for.

    Attributes:
        nodes: by their numbers inside.
        links: (source, output, target, input, type) between them.
        inputs: of the instance: its slot -> inputs inside.
        outputs: of the instance: its slot -> the output inside.
        values: of widgets inside.
    """

    nodes: dict[Any, dict]
    links: list[tuple[Any, int, Any, int, str]]
    inputs: dict[int, list[End]] = field(default_factory=dict)
    outputs: dict[int, End] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)


class Scope:
    """Nodes and links of a canvas. numbers: fresh ones for all canvases of the file."""

    def __init__(self, raw: dict[str, Any], numbers: Counters) -> None:
        self.raw, self.numbers = raw, numbers
        links = raw.get("links") or []
        self.as_objects = any(isinstance(link, dict) for link in links) or "inputNode" in raw
        rows = [[link.get(name) for name in NAMES] if isinstance(link, dict) else link for link in links]
        self.links = [[*row, "*"][:6] for row in rows if _is_row(row)]
        self.rest = [link for link, row in zip(links, rows, strict=True) if not _is_row(row)]

    def replace(self, instance: dict[str, Any], part: Part, place_of: Callable[[dict], Any]) -> list[dict[str, Any]]:
        """Put a part's nodes in the place of an instance and join them; returns them."""
        new = {number: copy.deepcopy(raw) for number, raw in part.nodes.items()}
        for number, raw in new.items():
            raw["id"] = self.numbers.node()
            raw["mode"] = instance.get("mode") or raw.get("mode", 0)
            for slot in entries(raw.get("inputs")):
                slot["link"] = None
            for slot in entries(raw.get("outputs")):
                slot["links"] = []
            raw.pop("index", None)
            for inside, name, value in part.values:
                if inside == number:
                    set_value(raw, name, value)
        self._move(instance, list(new.values()), place_of)
        for source, output, target, place, type_ in part.links:
            self._join(new[source], output, new[target], place, type_)
        self._join_outside(instance, part, new)
        at = next(place for place, raw in enumerate(self.raw["nodes"]) if raw is instance)
        self.raw["nodes"][at : at + 1] = new.values()
        self._write()
        return list(new.values())

    def _join_outside(self, instance: dict[str, Any], part: Part, new: dict[Any, dict]) -> None:
        key, own = instance.get("id"), {raw.get("id"): raw for raw in self.raw["nodes"]}
        for link in list(self.links):
            number, source, output, target, place, *_ = link
            if key not in (source, target):
                continue
            self.links.remove(link)
            self._unlink(own.get(source), number, "outputs")
            if target == key:
                for inside, slot in part.inputs.get(place, ()):
                    self._join(own.get(source, source), output, new[inside], slot, link[5], number)
                    number = None
            elif source == key and output in part.outputs:
                inside, slot = part.outputs[output]
                self._join(new[inside], slot, own.get(target, target), place, link[5], number)
                number = None
            if number is not None:
                self._unlink(own.get(target), number, "inputs")

    def _join(self, source: Any, output: Any, target: Any, place: Any, type_: Any, number: Any = None) -> None:
        """Link two nodes; an end that is a number is the canvas's border."""
        number = self.numbers.link() if number is None else number
        ends = []
        for end, slot, side in ((source, output, "outputs"), (target, place, "inputs")):
            if not isinstance(end, dict):
                ends.append(end)
                continue
            slots = end.get(side)
            if not isinstance(slots, list) or not isinstance(slot, int) or not 0 <= slot < len(slots):
                return
            if not isinstance(slots[slot], dict):
                return
            ends.append(end["id"])
        if isinstance(source, dict):
            _add(source["outputs"][output], "links", number)
        elif source == -10:
            borders = entries(self.raw.get("inputs"))
            if isinstance(output, int) and 0 <= output < len(borders):
                _add(borders[output], "linkIds", number)
        if isinstance(target, dict):
            target["inputs"][place]["link"] = number
        self.links.append([number, ends[0], output, ends[1], place, type_])

    def _unlink(self, raw: dict[str, Any] | None, number: Any, side: str) -> None:
        for slot in entries((raw or {}).get(side)):
            _take(slot, "links", number)
            if side == "inputs" and slot.get("link") == number:
                slot["link"] = None
        for entry in entries(self.raw.get("inputs")) if raw is None else ():
            _take(entry, "linkIds", number)

    def _move(self, instance: dict[str, Any], nodes: list[dict], place_of: Callable[[dict], Any]) -> None:
        """Keep the nodes' places to each other, the first corner where the instance was."""
        to, places = place_of(instance), [place_of(raw) for raw in nodes]
        if not places or to is None or any(place is None for place in places):
            for raw in nodes:
                raw.pop("pos", None)
                if to is not None:
                    raw["pos"] = list(to)
            return
        left, top = min(x for x, _ in places), min(y for _, y in places)
        for raw, (x, y) in zip(nodes, places, strict=True):
            raw["pos"] = [to[0] + x - left, to[1] + y - top]

    def _write(self) -> None:
        links = [dict(zip(NAMES, link, strict=True)) for link in self.links] if self.as_objects else self.links
        self.raw["links"] = [*links, *self.rest]


def entries(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) >= 5 and all(isinstance(part, (int, str, type(None))) for part in row[:5])


def _add(slot: dict[str, Any], name: str, number: Any) -> None:
    before = slot.get(name)
    slot[name] = [*(before if isinstance(before, list) else []), number]


def _take(slot: dict[str, Any], name: str, number: Any) -> None:
    if isinstance(slot.get(name), list) and number in slot[name]:
        slot[name].remove(number)


def set_value(raw: dict[str, Any], name: str | None, value: Any) -> None:
    """Set a widget of a node by its name, where its widgets are known; all of them without a name."""
    values = raw.get("widgets_values")
    if name is None:
        raw["widgets_values"] = value
    elif isinstance(values, dict):
        values[name] = value
    else:
        kind = raw["type"]
        names = TARGETS[kind].page_widgets() if kind in TARGETS else [
            spec.name for spec in ROWS[kind].widgets() if not spec.forced] if kind in ROWS else []  # fmt: skip
        if name in names and isinstance(values, list) and names.index(name) < len(values):
            values[names.index(name)] = value
