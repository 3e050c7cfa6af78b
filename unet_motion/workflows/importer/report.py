"""What a conversion did, node by node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graph import Node


@dataclass(frozen=True)
class Replaced:
    """A node of another pack and what stands for it now; `by` is empty where its values went into another node."""

    node: str
    kind: str
    by: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """A sentence about a node."""

    node: str
    kind: str
    text: str


@dataclass
class Report:
    """What became of the nodes of a graph.

    Attributes:
        replaced: nodes and what stands for them.
        kept: nodes of other packs that could be replaced and were not.
        left: nodes that have no counterpart, or that could not be read, and why.
        changed: values that mean something else now, or whose effect is lost, and why.
        notes: what was found in the graph that cannot be as it should.
    """

    replaced: list[Replaced] = field(default_factory=list)
    kept: list[Said] = field(default_factory=list)
    left: list[Said] = field(default_factory=list)
    changed: list[Said] = field(default_factory=list)
    notes: list[Said] = field(default_factory=list)
    _said: set[tuple] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def is_whole(self) -> bool:
        """Whether every node has a counterpart; values that mean something else now are in `changed`."""
        return not self.left

    def replace(self, node: Node, kind: str, by: tuple[str, ...]) -> None:
        """A node of `kind` was replaced."""
        entry = Replaced(str(node.key), kind, by)
        if self._is_new("replaced", entry):
            self.replaced.append(entry)

    def keep(self, node: Node, text: str) -> None:
        """A node stays as it was."""
        self._add("kept", node, text)

    def leave(self, node: Node, text: str) -> None:
        """A node has no counterpart; the first reason counts."""
        if self._is_new("left", str(node.key), node.kind):
            self._add("left", node, text)

    def change(self, node: Node, text: str, kind: str | None = None) -> None:
        """A value means something else now."""
        self._add("changed", node, text, kind)

    def note(self, node: Node, text: str) -> None:
        """Something in the graph is not as it should be."""
        self._add("notes", node, text)

    def _add(self, name: str, node: Node, text: str, kind: str | None = None) -> None:
        entry = Said(str(node.key), kind or node.kind, text)
        if self._is_new(name, entry):
            getattr(self, name).append(entry)

    def _is_new(self, *said: Any) -> bool:
        known = said in self._said
        self._said.add(said)
        return not known

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        said = {
            name: [{"node": s.node, "type": s.kind, "text": s.text} for s in getattr(self, name)]
            for name in ("kept", "left", "changed", "notes")
        }
        replaced = [{"node": r.node, "type": r.kind, "by": list(r.by)} for r in self.replaced]
        return {"whole": self.is_whole, "replaced": replaced, **said}
