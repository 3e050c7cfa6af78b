"""Gathers what the nodes that make settings give to the node that they end at."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...values import quoted
from .graph import BYPASSED, MUTED, Graph, Joint, Node, WorkflowError
from .report import Report
from .table import BATCHES, ROWS, STAGES, BatchOf, Made, Named, Of, Row
from .widgets import UnknownWidgets, Widgets

# Types that only settings have: links of these end at nodes of the table.
SETTING_TYPES = frozenset(output for row in ROWS.values() if row.emits is None for output in row.outputs) - frozenset(
    output for row in ROWS.values() if row.emits is not None for output in row.outputs
)


@dataclass
class Gift:
    """Values that a node gives to a stage.

    Attributes:
        giver: the node.
        group: of the motion module that they are for; None for all.
        mode: of the page: 4 where the giver is bypassed, or something before the reader is muted.
    """

    giver: Node
    stage: str
    inputs: dict[str, Any]
    weak: bool = False
    over: int = 0
    again: bool = False
    group: Any = None
    mode: int = 0


Steps = Generator["Wanted", list[Gift], list[Gift]]
"""Asks for what other nodes give, and returns what a node gives with that."""


@dataclass(frozen=True)
class Wanted:
    """A settings node whose gifts are asked for. off: something before its reader is muted."""

    node: Node
    row: Row
    off: bool = False


READINGS, LEAST_READINGS = 10, 10_000
"""How often settings may be read for each node of a canvas, and on any canvas."""


class Gatherer:
    """Reads the settings of a graph. `readers` are the settings nodes that something read."""

    def __init__(self, graph: Graph, widgets: Widgets, report: Report) -> None:
        self.graph, self.widgets, self.report = graph, widgets, report
        self.read: set[Any] = set()
        self.way: set[Any] = set()
        self.most = max(LEAST_READINGS, READINGS * len(graph.nodes))
        self.readings = 0

    def gather(self, node: Node) -> list[Gift]:
        """Everything that ends at a node, its own gifts last.

        Raises:
            WorkflowError: its settings lead to each other in so many ways that they cannot be read.
        """
        return self._run(self._of(Wanted(node, ROWS[node.kind]), True), node)

    def values_of(self, node: Node, name: str) -> list[tuple[Node, Any]]:
        """The values that come in through an input of settings, in their order, each with its giver."""
        row = self.row_of(node)
        gifts = self._run(self._through(node, row, name, False), node) if row is not None else ()
        return [(gift.giver, value) for gift in gifts if gift.stage == "value" and not gift.mode
                for value in gift.inputs.values()]  # fmt: skip

    def row_of(self, node: Node) -> Row | None:
        """How nodes of its type translate."""
        return ROWS.get(node.kind)

    def _run(self, first: Steps, node: Node) -> list[Gift]:
        """The gifts of a node and all before it, however long a chain they are: without a call inside a call."""
        running, on_the_way = [(first, node)], {node.key}
        answer: list[Gift] | None = None
        while running:
            steps, here = running[-1]
            try:
                wanted = steps.send(answer)  # type: ignore[arg-type]
            except StopIteration as done:
                answer = done.value
                running.pop()
                on_the_way.discard(here.key)
                continue
            answer = None
            if wanted.node.key in on_the_way:
                self.report.leave(wanted.node, "its settings lead back to itself")
                answer = []
                continue
            self.readings += 1
            if self.readings > self.most:
                raise WorkflowError(f"The settings before node {node.key} lead to each other in more ways than the "
                                    f"{self.most} expected of {len(self.graph.nodes)} nodes.")  # fmt: skip
            on_the_way.add(wanted.node.key)
            running.append((self._of(wanted), wanted.node))
        assert answer is not None
        return answer

    def _of(self, wanted: Wanted, is_end: bool = False) -> Steps:
        """What a node gives, behind what its chain does. is_end: everything ends at it."""
        node, row, off = wanted.node, wanted.row, wanted.off
        self.read.add(node.key)
        group = node.key if row.groups else None
        mode = BYPASSED if off or node.mode in (BYPASSED, MUTED) else 0
        gifts: list[Gift] = []
        if row.chain is not None:
            gifts = yield from self._through(node, row, row.chain, off or node.mode == MUTED)
        if row.why is not None:
            self.report.leave(node, row.why)
            return gifts
        try:
            values = self.widgets.read(node, row)
        except UnknownWidgets as error:
            if is_end:
                raise
            self.report.leave(node, str(error))
            return gifts
        reads: dict[str, dict[str, Any]] = {}
        own = yield from self._read_settings(node, row, bool(mode), reads)
        own += self._own(node, row, values, mode)
        for stage, inputs, lost in row.fold(values, reads) if row.fold is not None else ():
            if lost is not None:
                self.report.change(node, lost)
            else:
                each = stage in STAGES and STAGES[stage].each
                own.append(Gift(node, stage, inputs, again=each, mode=mode))
        gifts += [replace(gift, group=group) for gift in own] if group is not None else own
        if not mode:
            self._say_lost(node, row, values)
            if row.note is not None:
                self.report.change(node, row.note)
            if row.defect is not None:
                self.report.note(node, row.defect)
        return gifts

    def _read_settings(self, node: Node, row: Row, off: bool, reads: dict) -> Steps:
        """What comes in through the inputs of settings; values that `row.fold` makes something of go to `reads`."""
        found: list[Gift] = []
        for name, spec in row.inputs.items():
            if spec.type not in SETTING_TYPES or name == row.chain or name in row.only:
                continue
            for gift in (yield from self._through(node, row, name, off)):
                if row.fold is not None and gift.stage == "value" and name not in row.reads:
                    reads.setdefault(name, {}).update({} if gift.mode else gift.inputs)
                else:
                    found += self._renamed(node, gift, row.reads.get(name))
        return found

    def _through(self, node: Node, row: Row, name: str, off: bool) -> Steps:
        """The gifts that come in through an input."""
        origin = self.graph.origin(node, name, muted=True)
        if origin is None:
            return []
        source = origin.node
        self.way.update(step.key for step in origin.way)
        known = ROWS.get(source.kind)
        if known is not None and known.emits is None:
            return (yield Wanted(source, known, off))
        if not off:
            where = "outside of its subgraph" if source.border else f"node {source.key} ({source.kind})"
            text = f"its {name} comes from {where}, which is not known here"
            self.report.change(node, text)
        return []

    def _renamed(self, node: Node, gift: Gift, names: Mapping[str, str] | None) -> Iterator[Gift]:
        """A gift whose values are called by what its reader uses them for."""
        if names is None or gift.stage != "value":
            yield gift
            return
        for name, value in gift.inputs.items():
            if name in names:
                stage, _, used = names[name].partition(":")
                yield replace(gift, stage=stage, inputs={used: value})
            elif isinstance(value, Joint):
                self.report.change(gift.giver, f"its {name} has no counterpart where node {node.key} uses it")

    def _own(self, node: Node, row: Row, values: dict[str, Any], mode: int) -> Iterator[Gift]:
        for give in row.gives:
            if give.when is not None and values.get(give.when[0]) not in give.when[1]:
                continue
            inputs = {}
            for name, expression in give.inputs.items():
                value = self._value(node, row, expression, values)
                if value is not None:
                    inputs[name] = value
            yield Gift(node, give.stage, inputs, give.weak, give.over, give.again, mode=mode)

    def _value(self, node: Node, row: Row, expression: Any, values: dict[str, Any]) -> Any:
        if isinstance(expression, Of):
            return self._of_input(node, row, expression, values)
        if isinstance(expression, BatchOf):
            return self._batch_of(node, expression)
        if isinstance(expression, Named):
            origin = self.graph.origin(node, expression.name)
            known = None if origin is None else ROWS.get(origin.node.kind)
            if origin is None or known is None:
                return None
            value = self.widgets.named(origin.node, known).get(expression.wanted)
            return None if value is None else expression.function(value)
        if not isinstance(expression, Made):
            return expression
        read = [values.get(name) for name in expression.names]
        if any(isinstance(value, Joint) for value in read):
            names = ", ".join(expression.names)
            self.report.change(node, f"{names}: linked, so that they cannot be read; the defaults count")
            read = [row.inputs[name].default for name in expression.names]
        try:
            return expression.function(*read)
        except LookupError:
            name = expression.names[0]
            default = row.inputs[name].default
            self.report.change(node, f"{name} {quoted(read[0])} has no counterpart; {quoted(default)} counts")
            return expression.function(default, *read[1:])

    def _batch_of(self, node: Node, expression: BatchOf) -> Any:
        """How many latents come in, or their size; said where that is not known."""
        found = self.size_of(node, expression.name, expression.part)
        if found is None:
            text = f"the {expression.part} of its {expression.name} is not known: {expression.unknown} is set"
            self.report.change(node, text)
            return expression.unknown
        return found

    def size_of(self, node: Node, name: str, part: str) -> Any:
        """The batch_size, width or height of the latents of an input, as the node that makes them says, or None."""
        origin = self.graph.origin(node, name)
        word = None if origin is None else BATCHES.get(origin.node.kind, {}).get(part)
        if origin is None or word is None:
            return None
        made = origin.node
        if self.graph.link_into(made, word) is not None:
            return Joint(*self.widgets.start(made, word), "INT")
        row = ROWS.get(made.kind)
        number = self.widgets.named(made, row).get(word) if row else self.widgets.target_value(made, word)
        return number if isinstance(number, int) else None

    def _of_input(self, node: Node, row: Row, expression: Of, values: dict[str, Any]) -> Any:
        value = values.get(expression.name)
        if value is None or expression.choices is None:
            return value
        default = row.inputs[expression.name].default
        if isinstance(value, Joint) and row.inputs[expression.name].type == "INT":
            return value
        if isinstance(value, Joint):
            self.report.change(node, f"{expression.name} is linked; {quoted(default)} counts, which can be read")
            return expression.choices.get(default)
        if row.inputs[expression.name].type == "INT":
            return expression.choices.get(value, value)
        if not isinstance(value, str) or value not in expression.choices:
            self.report.change(node, f"{expression.name} {quoted(value)} has no counterpart; {quoted(default)} counts")
            return expression.choices.get(default)
        return expression.choices[value]

    def _say_lost(self, node: Node, row: Row, values: dict[str, Any]) -> None:
        for name, only in row.only.items():
            value = values.get(name)
            if value is not None and value not in only.values:
                what = "a link" if isinstance(value, Joint) else repr(value)
                self.report.change(node, f"{name} {what} has no counterpart: {only.lost}")
