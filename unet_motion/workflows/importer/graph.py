"""One model of a graph for both forms of a workflow file: nodes with named values, and links between them.

A page graph has a `Graph` for its canvas and one for each subgraph; an API graph has one. Nodes and links that no
conversion touches are written back as they were read: they keep their `raw` form.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...files.errors import one_line

Key = int | str
MUTED, BYPASSED = 2, 4
VIRTUAL_PASSES = ("Reroute", "SetNode")
PRIMITIVE, GET, SET = "PrimitiveNode", "GetNode", "SetNode"


class WorkflowError(ValueError):
    """What was given is no graph of ComfyUI that can be read; one sentence that can be printed anywhere."""

    def __init__(self, text: str = "") -> None:
        super().__init__(one_line(text))


@dataclass(eq=False)
class Slot:
    """An input or output of a node. links: numbers of the graph's links; an input has at most one."""

    name: str
    type: str
    links: list[int] = field(default_factory=list)
    raw: dict[str, Any] | None = None


@dataclass(eq=False)
class Link:
    """From output number `output` of node `source` to input number `input` of node `target`."""

    number: int
    source: Key
    output: int
    target: Key
    input: int
    type: str
    raw: Any = None


@dataclass(eq=False)
class Node:
    """A node.

    Attributes:
        values: of its widgets by name, where the names are known (always in an API graph).
        raw: as it stood in the file; None for a node that a conversion made.
        mode: of the page: 0 active, 2 muted, 4 bypassed.
        place: x, y, width, height on the page, where known.
        properties: that a conversion added.
        border: the inner side of a subgraph's border, which is no node of the file.
    """

    key: Key
    kind: str
    inputs: list[Slot] = field(default_factory=list)
    outputs: list[Slot] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] | None = None
    mode: int = 0
    place: tuple[float, float, float, float] | None = None
    title: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    border: bool = False

    def input(self, name: str) -> Slot | None:
        """The input of that name, or None."""
        for slot in self.inputs:  # asked very often: no generator
            if slot.name == name:
                return slot
        return None


class Graph:
    """Nodes by their keys, links by their numbers. `counters` gives fresh ones, shared by all graphs of a file."""

    def __init__(self, counters: Counters, where: str = "") -> None:
        self.nodes: dict[Key, Node] = {}
        self.links: dict[int, Link] = {}
        self.counters = counters
        self.where = where
        self.read_links: set[Any] = set()
        self._by_word: dict[tuple[str, Any], dict[Key, Node]] = {}
        self._origins: dict[tuple[Key, int, bool], Origin | None] = {}

    def add(self, node: Node) -> Node:
        """Put a node in."""
        self.nodes[node.key] = node
        if node.kind in (SET, GET):
            self._by_word.setdefault((node.kind, _word(node)), {})[node.key] = node
        return node

    def join(self, source: Key, output: int, target: Key, name: str, type_: str, number: int | None = None) -> None:
        """Link an output to the input of that name, which is made where the node has none; a link there is cut."""
        self._origins.clear()
        node = self.nodes[target]
        slot = node.input(name)
        if slot is None:
            slot = Slot(name, type_)
            node.inputs.append(slot)
        self.cut(slot)
        number = self.counters.link() if number is None else number
        self.links[number] = Link(number, source, output, target, node.inputs.index(slot), type_)
        slot.links = [number]
        outputs = self.nodes[source].outputs
        while len(outputs) <= output:
            outputs.append(Slot("", type_))
        outputs[output].links.append(number)

    def cut(self, slot: Slot) -> None:
        """Take the links of an input or output away."""
        self._origins.clear()
        for number in list(slot.links):
            link = self.links.pop(number, None)
            if link is None:
                continue
            for end, side, place in ((link.source, "outputs", link.output), (link.target, "inputs", link.input)):
                slots = getattr(self.nodes[end], side) if end in self.nodes else []
                if place < len(slots) and number in slots[place].links:
                    slots[place].links.remove(number)
        slot.links = []

    def move_output(self, node: Node, output: int, source: Key, place: int) -> None:
        """Let everything that reads an output of a node read that of another."""
        self._origins.clear()
        if output >= len(node.outputs):
            return
        while len(self.nodes[source].outputs) <= place:
            self.nodes[source].outputs.append(Slot("", node.outputs[output].type))
        for number in node.outputs[output].links:
            link = self.links[number]
            link.source, link.output = source, place
            self.nodes[source].outputs[place].links.append(number)
        node.outputs[output].links = []

    def remove(self, node: Node) -> None:
        """Take a node and its links away."""
        for slot in (*node.inputs, *node.outputs):
            self.cut(slot)
        del self.nodes[node.key]
        self._by_word.get((node.kind, _word(node)), {}).pop(node.key, None)

    def link_into(self, node: Node, name: str) -> Link | None:
        """The link into an input, or None."""
        slot = node.input(name)
        return self.links.get(slot.links[0]) if slot is not None and slot.links else None

    def readers(self, node: Node, output: int | None = None) -> Iterator[tuple[Node, Slot]]:
        """The nodes and inputs that read an output of a node, or all of them."""
        outputs = node.outputs if output is None else node.outputs[output : output + 1]
        for number in itertools.chain.from_iterable(slot.links for slot in outputs):
            link = self.links[number]
            target = self.nodes[link.target]
            yield target, target.inputs[link.input]

    def sources(self, node: Node) -> Iterator[Node]:
        """The nodes that a node reads; of a `GetNode` that which keeps its value."""
        for number in itertools.chain.from_iterable(slot.links for slot in node.inputs):
            yield self.nodes[self.links[number].source]
        setter = self.setter(_word(node)) if node.kind == GET else None
        if setter is not None:
            yield setter

    def setter(self, name: Any) -> Node | None:
        """The node that keeps a value under a name for `GetNode`s; the last of several."""
        return next(reversed(self._by_word.get((SET, name), {}).values()), None)

    def getters(self, setter: Node) -> Iterator[Node]:
        """The nodes that give the value that a `SetNode` keeps."""
        yield from self._by_word.get((GET, _word(setter)), {}).values()

    def origin(self, node: Node, name: str, muted: bool = False) -> Origin | None:
        """Where the value of an input comes from, through reroutes, set and get nodes.

        muted: also from a muted node, from which nothing comes when the graph runs.
        """
        link = self.link_into(node, name)
        if link is None:
            return None
        start = (link.source, link.output, muted)
        if start not in self._origins:  # many inputs may read one long way
            self._origins[start] = self._origin(link, muted)
        return self._origins[start]

    def _origin(self, link: Link | None, muted: bool) -> Origin | None:
        way: dict[Key, Node] = {}
        while link is not None:
            source = self.nodes[link.source]
            if source.key in way or (source.mode == MUTED and not muted):
                return None
            passing = source.kind in VIRTUAL_PASSES or source.kind == GET
            if not passing:
                return Origin(source, link.output, tuple(way.values()))
            way[source.key] = source
            passer = self.setter(_word(source)) if source.kind == GET else source
            if passer is None:
                return None
            way[passer.key] = passer
            slots = passer.inputs
            link = self.links.get(slots[0].links[0]) if slots and slots[0].links else None
        return None


@dataclass(frozen=True)
class Joint:
    """A link to an output of a node, as the value of an input."""

    source: Node
    output: int
    type: str


@dataclass(frozen=True)
class Origin:
    """An output of a node, and the reroutes, set and get nodes between it and the input that was asked for."""

    node: Node
    output: int
    way: tuple[Node, ...] = ()


def _word(node: Node) -> Any:
    """The first widget of a node that the page alone knows: a set or get node's name, a primitive's value."""
    values = (node.raw or {}).get("widgets_values")
    word = values[0] if isinstance(values, list) and values else None
    return word if isinstance(word, (str, int, float, bool)) else None


def primitive_value(node: Node) -> Any:
    """The value of a `PrimitiveNode`."""
    return _word(node)


def constant_of(node: Node) -> int | float | None:
    """The number that a node gives on and that nothing changes: the only one that stands on it."""
    if any(slot.links for slot in node.inputs):
        return None
    raw = node.raw or {}
    values = raw.get("widgets_values") if "class_type" not in raw else list(node.values.values())
    values = list(values.values()) if isinstance(values, dict) else values if isinstance(values, list) else []
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return numbers[0] if len(numbers) == 1 else None


class Counters:
    """Fresh keys of nodes and numbers of links, past all that a file holds."""

    def __init__(self, last_node: int, last_link: int, *, text_keys: bool) -> None:
        self.last_node, self.last_link, self.text_keys = last_node, last_link, text_keys

    def node(self) -> Key:
        self.last_node += 1
        return str(self.last_node) if self.text_keys else self.last_node

    def link(self) -> int:
        self.last_link += 1
        return self.last_link
