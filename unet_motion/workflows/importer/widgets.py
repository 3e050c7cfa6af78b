"""Reads the values of nodes of other packs by the names of their inputs, in the order of any version of the node."""

from __future__ import annotations

from typing import Any

from ...files.errors import shorten
from ...values import is_finite, quoted
from .graph import PRIMITIVE, Graph, Joint, Node, primitive_value
from .table import TARGETS, Input, Row

CONTROLS = ("fixed", "randomize", "increment", "decrement")


class UnknownWidgets(ValueError):
    """A node has widget values that fit no known order of its inputs."""


class Widgets:
    """Values of the inputs of nodes in a graph: plain, or a `Joint` for a link."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def read(self, node: Node, row: Row) -> dict[str, Any]:
        """The value of each input: as it stands, of a primitive that is linked, or a link; None for none.

        Raises:
            UnknownWidgets: they fit no known order.
        """
        named = self._checked(node, row)
        if "class_type" in (node.raw or {}):
            named = {**row.absent, **named}
        values: dict[str, Any] = {}
        for name, spec in row.inputs.items():
            origin = self.graph.origin(node, name)
            if origin is not None:
                primitive = primitive_value(origin.node) if origin.node.kind == PRIMITIVE else None
                values[name] = primitive if primitive is not None and spec.type == "COMBO" else Joint(
                    *self.start(node, name), spec.type
                )  # fmt: skip
            elif not spec.forced or node.raw is None or "widgets_values" not in node.raw:
                values[name] = named.get(name, None if spec.forced else spec.default)
        return values

    def _checked(self, node: Node, row: Row) -> dict[str, Any]:
        """The values that stand on the node, all of their inputs' types."""
        widgets = {spec.name: spec for spec in row.widgets()}
        found = self.named(node, row)
        named = {name: value for name, value in found.items() if name in widgets and value is not None}
        for name, value in named.items():
            if not _fits(widgets[name], value):
                raise UnknownWidgets(f"its value {name} is {shorten(repr(value))}, expected {widgets[name].type}")
        return named

    def start(self, node: Node, name: str) -> tuple[Node, int]:
        """Where the link of an input begins: a reroute on the way stays."""
        link = self.graph.link_into(node, name)
        assert link is not None
        return self.graph.nodes[link.source], link.output

    def named(self, node: Node, row: Row) -> dict[str, Any]:
        """The values that stand on the node."""
        raw = node.raw or {}
        if "class_type" in raw:
            return node.values
        values = raw.get("widgets_values")
        if isinstance(values, dict):
            return values
        values = values if isinstance(values, list) else []
        for order in row.orders:
            widgets = [row.inputs[name] for name in order.split()]
            if len(values) in (len(widgets), len(widgets) + 1) and all(map(_fits, widgets, values)):
                return dict(zip(order.split(), values, strict=False))
        widgets = row.widgets()
        return align(widgets, values[: len(widgets)] if row.more else values)

    def target_value(self, node: Node, name: str) -> Any:
        """A value of a node that conversions can write, as it stands on a node of the file."""
        raw = node.raw or {}
        values = raw.get("widgets_values")
        if "class_type" in raw or not isinstance(values, list):
            return node.values.get(name)
        names = TARGETS[node.kind].page_widgets() if node.kind in TARGETS else []
        return values[names.index(name)] if name in names and names.index(name) < len(values) else None


def align(widgets: list[Input], values: list[Any]) -> dict[str, Any]:
    """Names of values that stand in the order of widgets; older files lack some, newer pages add some.

    What pages add behind them are names of files and what a preview shows, no numbers or switches.

    Raises:
        UnknownWidgets: more numbers or switches than widgets, or values of other types.
    """
    found: dict[str, Any] = {}
    rest = list(values)
    for spec in widgets:
        if not rest:
            break
        if _fits(spec, rest[0]):
            found[spec.name] = rest.pop(0)
            if rest and rest[0] in CONTROLS and spec.type == "INT":
                rest.pop(0)
        elif spec.type == "BOOLEAN" or spec.forced:
            continue  # a switch that came later
        elif rest[0] is None:
            rest.pop(0)
        else:
            raise UnknownWidgets(f"its value {spec.name} is {quoted(rest[0])}, expected {spec.type}")
    extra = [value for value in rest if isinstance(value, (int, float))]
    if extra:
        counted = f"it has {len(values)} widget values"
        raise UnknownWidgets(f"{counted}, of which {quoted(extra[0])} belongs to no known input")
    return found


def _fits(spec: Input, value: Any) -> bool:
    if spec.type == "BOOLEAN":
        return isinstance(value, bool)
    if spec.type in ("INT", "FLOAT"):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)
        return is_number and (spec.type == "FLOAT" or value == int(value))
    return isinstance(value, str)
