"""AnimateDiff-Evolved's graphs to graphs of this pack's and core's nodes."""

from __future__ import annotations

import copy
import gc
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .api import is_api_graph, read_api, write_api
from .arrange import arrange, is_heap
from .build import Builder, plan
from .control import Strengths
from .graph import GET, MUTED, SET, VIRTUAL_PASSES, Graph, Joint, Link, Node, WorkflowError
from .page import in_group_nodes, is_page_graph, read_page, write_page
from .place import Places
from .report import Report
from .settings import Gatherer, Gift
from .table import KEEPS, RENAMED, ROWS, SAMPLERS, is_old
from .unpack import unpacked
from .widgets import UnknownWidgets, Widgets

__all__ = ["Converted", "WorkflowError", "convert_workflow", "old_types"]

ASIDE = "UNetMotion: no counterpart"
"""Property of a node of the page that was set aside: why."""


@dataclass(frozen=True)
class Converted:
    """A converted graph, in the form that came in, and what was done."""

    graph: dict[str, Any]
    report: Report


@contextmanager
def _without_collections() -> Iterator[None]:
    """No garbage collection meanwhile: a full one looks at all objects of the process, which are millions where torch
    is loaded, and a large graph makes so many that several would come. Of two threads the first turns it on again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collections()
def convert_workflow(data: Any, replaceable: Collection[str] = ()) -> Converted:
    """Convert a graph in ComfyUI's page format or API format; the one that is given stays as it is.

    Args:
        data: the graph, as JSON is read; an API graph also in the body that programs post, as its `prompt`, beside
            which everything stays.
        replaceable: types of nodes of packs other than AnimateDiff-Evolved that are replaced too, where the table has
            them; those whose pack is missing.

    Raises:
        WorkflowError: it is no graph.
    """
    report = Report()
    if is_page_graph(data):
        given, data = data, unpacked(data, report)
        graphs = read_page(data, report)
        changed = [_convert(graph, replaceable, report) for graph in graphs]
        for node in filter(lambda node: is_old(node.kind), in_group_nodes(data)):
            report.leave(node, "is in the definition of a group node that could not be read")
        if any(changed) or data is not given:
            data = write_page(copy.deepcopy(data), graphs)
        return Converted(data, report)
    if is_api_graph(data):
        graph = read_api(data, report)
        return Converted(write_api(graph) if _convert(graph, replaceable, report) else data, report)
    if _is_body(data):
        converted = convert_workflow(data["prompt"], replaceable)
        same = converted.graph is data["prompt"]
        return Converted(data if same else {**data, "prompt": converted.graph}, converted.report)
    raise WorkflowError(f"Expected a graph of ComfyUI, of its page (with nodes) or its API, found {_said(data)[:200]}.")


def _said(data: Any, inside: bool = False) -> str:
    if not isinstance(data, dict):
        return type(data).__name__
    if not data:
        return "an empty object"
    if list(data) == ["prompt"] and not inside:
        return f"a `prompt` that is {_said(data['prompt'], inside=True)}"
    return f"an object with {', '.join(map(repr, list(data)[:3]))}"


def old_types(data: Any) -> list[str]:
    """Types of AnimateDiff-Evolved's nodes in a graph of either form."""
    if _is_body(data):
        return old_types(data["prompt"])
    if is_api_graph(data):
        kinds = {node["class_type"] for node in data.values()}
    elif is_page_graph(data):
        kinds = {node.kind for graph in read_page(data, Report()) for node in graph.nodes.values()}
        kinds |= {node.kind for node in in_group_nodes(data)}
    else:
        return []
    return sorted(filter(is_old, kinds))


def _is_body(data: Any) -> bool:
    """Whether this is what programs post: an API graph as `prompt`, with what belongs to it."""
    return isinstance(data, dict) and not is_page_graph(data) and is_api_graph(data.get("prompt"))


def _convert(graph: Graph, replaceable: Collection[str], report: Report) -> bool:
    """Convert one canvas; returns whether it changed."""
    wanted = [node for node in graph.nodes.values() if is_old(node.kind) or _is_wanted(node, replaceable, report)]
    if not wanted:
        return False
    return _Conversion(graph, report).run(wanted)


def _is_wanted(node: Node, replaceable: Collection[str], report: Report) -> bool:
    if node.kind not in ROWS:
        return False
    if node.kind not in replaceable:
        report.keep(node, f"is a node of {ROWS[node.kind].pack}")
    return node.kind in replaceable


def _why_aside(node: Node) -> str | None:
    """Why an earlier conversion set a node aside."""
    properties = (node.raw or {}).get("properties")
    why = properties.get(ASIDE) if isinstance(properties, dict) else None
    return str(why) if node.mode == MUTED and why is not None else None


def _rename_inputs(node: Node) -> None:
    """Call inputs of older versions as they are called now."""
    formerly = ROWS[node.kind].formerly if node.kind in ROWS else {}
    for slot in node.inputs:
        now = formerly.get(slot.name, slot.name)
        if slot.links and node.input(now) is None:
            slot.name = now


class _Conversion:
    """Of one canvas."""

    def __init__(self, graph: Graph, report: Report) -> None:
        self.graph, self.report = graph, report
        self.gatherer = Gatherer(graph, Widgets(graph), report)
        self.builder = Builder(graph, Places(graph.nodes.values()), report)
        self.strengths = Strengths(graph, self.gatherer, self.builder, report)
        self.unplaced = is_heap(graph)
        self.behind: dict[Any, list[tuple[Node, bool]]] = {}
        self.changed = False

    def run(self, wanted: list[Node]) -> bool:
        plans = []
        for node in wanted:
            _rename_inputs(node)
        for node in wanted:
            row = ROWS.get(node.kind)
            if row is None:
                self.report.leave(node, "is not known here")
            elif (why := row.why or _why_aside(node)) is not None:
                self.report.leave(node, why)
            elif row.emits is not None:
                gifts = self._gather(node)
                if gifts is not None:
                    plans.append((node, row, plan(node, self._from_samplers(node, gifts), self.report)))
                    self.strengths.read(node, row)
                    if row.home is not None and all(built.stage != row.home for built in plans[-1][2]):
                        self.report.leave(node, "has no counterpart")
                        plans.pop()
        for node, row, stages in plans:
            self.builder.build(node, row, stages)
            self.changed = True
        self.strengths.write()
        self._clear_settings(wanted)
        self._rename_links()
        if self.changed and self.unplaced:
            arrange(self.graph)
        return self.changed

    def _gather(self, node: Node) -> list[Gift] | None:
        try:
            return self.gatherer.gather(node)
        except UnknownWidgets as error:
            self.report.leave(node, str(error))
            return None

    def _from_samplers(self, node: Node, gifts: list[Gift]) -> list[Gift]:
        """The gifts that a node's stages take, with the size of the clip where that is wanted."""
        return [self._fitted(node, gift) if gift.stage == "fitted" else gift for gift in self._to_samplers(node, gifts)]

    def _fitted(self, node: Node, gift: Gift) -> Gift:
        """A picture that gets the size of the clip behind a node, or its own where that is not known."""
        samplers = self._samplers_behind(node)
        sizes = [[self.gatherer.size_of(sampler, "latent_image", part) for part in ("width", "height")]
                 for sampler in samplers]  # fmt: skip
        if sizes and None not in sizes[0] and all(size == sizes[0] for size in sizes):
            return replace(gift, inputs={**gift.inputs, "width": sizes[0][0], "height": sizes[0][1]})
        text = "resize_image: the size of the clip is not known, so that its picture keeps its own"
        self.report.change(gift.giver, text)
        return replace(gift, stage="injection")

    def _to_samplers(self, node: Node, gifts: list[Gift]) -> list[Gift]:
        """Guidance goes to the samplers behind a node; where one is not known, the MODEL carries it."""
        own = [gift for gift in gifts if gift.stage == "schedule" and gift.giver is node]
        dropped = own if own and self._is_overruled(node) else []
        rest = [gift for gift in gifts if gift.stage != "sampler" and gift not in dropped]
        for gift in gifts:
            if gift.stage != "sampler" or gift.mode or "cfg" not in gift.inputs:
                continue
            samplers = self._samplers_behind(node)
            if samplers and all(sampler.kind in SAMPLERS for sampler in samplers):
                for sampler in samplers:
                    self._set(sampler, SAMPLERS[sampler.kind], gift.inputs["cfg"])
                self.builder.by.setdefault(gift.giver.key, []).extend(sampler.kind for sampler in samplers)
            else:
                rest.append(Gift(gift.giver, "guidance", gift.inputs))
        return rest

    def _samplers_behind(self, node: Node) -> list[Node]:
        """The nodes that the MODEL of a node ends at."""
        found: dict[Any, Node] = {}
        rest, seen = [node], {node.key}
        while rest:
            for reader, passes in self._behind(rest.pop()):
                if reader.key in seen:
                    continue
                seen.add(reader.key)
                if passes:
                    rest.append(reader)
                else:
                    found[reader.key] = reader
        return list(found.values())

    def _behind(self, node: Node) -> list[tuple[Node, bool]]:
        """The nodes that read the MODEL of a node, and whether they give it on."""
        if node.key not in self.behind:
            self.behind[node.key] = [(reader, self._passes_model(reader)) for reader, _ in self._model_readers(node)]
        return self.behind[node.key]

    def _is_overruled(self, node: Node) -> bool:
        """Whether another noise schedule is set behind a node, on every way from its MODEL to a sampler."""
        rest, seen = [node], {node.key}
        while rest:
            for reader, passes in self._behind(rest.pop()):
                if reader.key in seen or self._sets_schedule(reader):
                    continue
                if not passes:
                    return False
                seen.add(reader.key)
                rest.append(reader)
        return True

    def _sets_schedule(self, node: Node) -> bool:
        row = ROWS.get(node.kind)
        if row is None or row.emits is None or "model" not in row.inputs or "beta_schedule" not in row.inputs:
            return False
        try:
            chosen = self.gatherer.widgets.read(node, row)["beta_schedule"]
        except UnknownWidgets:
            return False
        return node.mode == 0 and not (isinstance(chosen, str) and chosen in KEEPS)  # a link may choose any

    def _model_readers(self, node: Node):
        for number, slot in enumerate(node.outputs):
            is_model = slot.type == "MODEL" or (slot.type == "*" and self._gives_model(node, number))
            if is_model or node.kind in VIRTUAL_PASSES or node.kind == GET:
                yield from self.graph.readers(node, number)

    def _gives_model(self, node: Node, output: int) -> bool:
        """In an API graph, where outputs have no types: what is read as `model` is one."""
        row = ROWS.get(node.kind)
        if row is not None:
            return output < len(row.outputs) and row.outputs[output] == "MODEL"
        return any(slot.name == "model" for _, slot in self.graph.readers(node, output))

    def _passes_model(self, node: Node) -> bool:
        if node.kind in VIRTUAL_PASSES or node.kind == GET:
            return True
        if node.kind in SAMPLERS:
            return False
        return any(slot.type == "MODEL" or (slot.type == "*" and self._gives_model(node, number))
                   for number, slot in enumerate(node.outputs))  # fmt: skip

    def _set(self, node: Node, name: str, value: Any) -> None:
        slot = node.input(name)
        if slot is not None:
            self.graph.cut(slot)
        if isinstance(value, Joint):
            self.graph.join(value.source.key, value.output, node.key, name, value.type)
        else:
            node.values[name] = value

    def _clear_settings(self, wanted: list[Node]) -> None:
        """Take away the nodes whose values stand elsewhere now, and the ways to them."""
        left = {said.node for said in self.report.left}
        rest = []
        for node in wanted:
            row = ROWS.get(self.builder.taken.get(node.key, node.kind))
            if row is None or row.emits is not None or node.key not in self.graph.nodes:
                continue
            if node.key in self.builder.taken:
                self.report.replace(node, row.kind, self._by(node))
            elif str(node.key) not in left:
                rest.append(node)
        way = [self.graph.nodes[key] for key in self.gatherer.way if key in self.graph.nodes]
        self._sweep([*way, *rest], self._clear)
        for node in rest:
            reader = next((r for r, _ in self.graph.readers(node)), None) if node.key in self.graph.nodes else None
            if reader is not None:
                self.report.leave(node, f"node {reader.key} ({reader.kind}), which stays, reads it")
        left = {said.node for said in self.report.left}
        rest = [node for node in wanted if str(node.key) in left and node.key not in self.builder.taken]
        self._sweep(rest, self._set_aside)

    def _sweep(self, nodes: list[Node], goes: Callable[[Node], bool]) -> None:
        """Let those of the nodes go that nothing reads any more, and then those that only these read."""
        among, waiting = {node.key for node in nodes}, deque(nodes)
        while waiting:
            node = waiting.popleft()
            if self.graph.nodes.get(node.key) is not node:
                continue
            sources = list(self.graph.sources(node))
            if goes(node):
                waiting.extend(source for source in sources if source.key in among)

    def _by(self, node: Node) -> tuple[str, ...]:
        """Types of the nodes that a node's values went to."""
        return tuple(dict.fromkeys(self.builder.by.get(node.key, ())))

    def _clear(self, node: Node) -> bool:
        """Take a node of settings, or one on the way from it, away that nothing reads; returns whether it went."""
        if any(slot.links for slot in node.outputs):
            return False
        if node.key in self.gatherer.way:
            is_read = node.kind == SET and any(self.graph.getters(node))
            if not is_read:
                self.graph.remove(node)
            return not is_read
        if node.key in self.gatherer.read:
            self.report.replace(node, node.kind, self._by(node))
        else:
            self.report.note(node, "nothing reads its settings; taken away")
        self.graph.remove(node)
        self.changed = True
        return True

    def _set_aside(self, node: Node) -> bool:
        """A node without counterpart stays on the page, muted where nothing reads it; the API runs without it.

        Returns whether that changed anything.
        """
        readers = [reader for reader, _ in self.graph.readers(node)]
        if any(ASIDE not in reader.properties and _why_aside(reader) is None for reader in readers):
            return False
        if node.raw is not None and "class_type" in node.raw:
            self.graph.remove(node)
        elif node.properties or _why_aside(node) is not None:
            return False
        else:
            why = next(said.text for said in self.report.left if said.node == str(node.key))
            node.mode, node.properties = MUTED, {ASIDE: why}
        self.changed = True
        return True

    def _is_between_old(self, link: Link) -> bool:
        """Whether both ends are nodes that stay as they were."""
        return all(is_old(self.graph.nodes[key].kind) for key in (link.source, link.target))

    def _rename_links(self) -> None:
        """Motion models are called motion modules here, on reroutes too."""
        for link in self.graph.links.values():
            if link.type in RENAMED and not self._is_between_old(link):
                link.type = RENAMED[link.type]
        for node in self.graph.nodes.values():
            if node.kind in VIRTUAL_PASSES or node.kind == GET:
                for slot in (*node.inputs, *node.outputs):
                    if slot.type in RENAMED:
                        slot.type = RENAMED[slot.type]
                        slot.raw = {**(slot.raw or {}), "type": slot.type}
