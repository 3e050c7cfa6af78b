"""Page graphs: what ComfyUI's page saves and opens, with subgraphs.

Widget values stand by position there (for some packs by name), links in a list of their own, numbered.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from .graph import Counters, Graph, Link, Node, Slot, WorkflowError
from .report import Report
from .table.targets import TARGETS, Target

BORDERS = (("inputNode", "inputs", -10), ("outputNode", "outputs", -20))
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
LARGEST_NUMBER = 2**53
LARGEST_PLACE = 1e7


def is_page_graph(data: Any) -> bool:
    """Whether this is a graph as the page saves it."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def read_page(data: dict[str, Any], report: Report) -> list[Graph]:
    """The model of a page graph: its canvas, then its subgraphs.

    Raises:
        WorkflowError: a node has no type or number, or two have the same.
    """
    scopes = [(data, "")]
    definitions = data.get("definitions")
    subgraphs = definitions.get("subgraphs", []) if isinstance(definitions, dict) else []
    for number, subgraph in enumerate(subgraphs if isinstance(subgraphs, list) else []):
        if not is_page_graph(subgraph):
            raise WorkflowError(f"Subgraph {number} has no list of nodes.")
        scopes.append((subgraph, str(subgraph.get("name", number))))
    counters = fresh_numbers([scope for scope, _ in scopes])
    return [_read_scope(scope, where, counters, report) for scope, where in scopes]


def fresh_numbers(scopes: list[dict]) -> Counters:
    """Numbers of nodes and links that no canvas of a file has."""
    return Counters(_largest(scopes, "node"), _largest(scopes, "link"), text_keys=False)


def place_of(raw: dict[str, Any]) -> tuple[float, float] | None:
    """Where a node of the file stands on the page."""
    return _pair(raw.get("pos"))


def _largest(scopes: Iterable[dict], kind: str) -> int:
    """The largest number of a node or link in the file, in what it counts and in what is there."""
    found: list[Any] = [0]
    for scope in scopes:
        state = scope.get("state")
        state = state if isinstance(state, dict) else {}
        found += [scope.get(f"last_{kind}_id"), state.get(f"last{kind.capitalize()}Id")]
        entries = scope["nodes"] if kind == "node" else scope.get("links") or []
        for entry in entries if isinstance(entries, list) else []:
            found.append(entry.get("id") if isinstance(entry, dict) else entry[0] if _is_row(entry) else None)
    return max(n for n in found if isinstance(n, int) and not isinstance(n, bool) and n < LARGEST_NUMBER)


def _is_row(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) >= 5


def _read_scope(scope: dict[str, Any], where: str, counters: Counters, report: Report) -> Graph:
    graph = Graph(counters, where)
    for number, raw in enumerate(scope["nodes"]):
        key = raw.get("id") if isinstance(raw, dict) else None
        if not isinstance(key, (int, str)) or isinstance(key, bool) or not isinstance(raw.get("type"), str):
            raise WorkflowError(f"Node {number} of the list has no number or type.")
        if key in graph.nodes:
            raise WorkflowError(f"Two nodes have the number {key}.")
        graph.add(_read_node(raw))
    for name, side, key in BORDERS:
        if isinstance(scope.get(name), dict):
            graph.add(_border(scope, side, key))
    links = scope.get("links") or []
    if not isinstance(links, list):
        raise WorkflowError(f"The links are of type {type(links).__name__}, expected a list.")
    lost = sum(not _read_link(graph, raw) for raw in links)
    if lost:
        where = f" of subgraph {where}" if where else ""
        report.note(Node("links", "links"), f"{lost}{where} lead from or to nothing; left as they are")
    return graph


def in_group_nodes(data: dict[str, Any]) -> Iterator[Node]:
    """The nodes in a page's group nodes, which have no numbers of their own."""
    extra = data.get("extra")
    groups = extra.get("groupNodes") if isinstance(extra, dict) else None
    for name, group in (groups if isinstance(groups, dict) else {}).items():
        nodes = group.get("nodes") if isinstance(group, dict) else None
        for place, raw in enumerate(nodes if isinstance(nodes, list) else []):
            if isinstance(raw, dict) and isinstance(raw.get("type"), str):
                yield Node(f"{name}:{place}", raw["type"])


def _border(scope: dict[str, Any], side: str, key: int) -> Node:
    """The border of a subgraph, from inside: its inputs give values, its outputs take them."""
    listed = scope.get(side)
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    slots = [Slot(str(entry.get("name", "")), str(entry.get("type", "*")), raw=entry) for entry in entries]
    node = Node(key, f"<{side}>", border=True)
    node.outputs, node.inputs = (slots, []) if side == "inputs" else ([], slots)
    return node


def _slots(raw: Any) -> list[Slot]:
    entries = raw if isinstance(raw, list) else []
    entries = [entry if isinstance(entry, dict) else {} for entry in entries]
    return [Slot(str(entry.get("name", "")), _type(entry.get("type")), raw=entry) for entry in entries]


def _type(value: Any) -> str:
    return value if isinstance(value, str) else "COMBO" if isinstance(value, list) else "*"


def _pair(value: Any) -> tuple[float, float] | None:
    """Two numbers, which files hold as a list or as {"0": .., "1": ..}."""
    if isinstance(value, dict):
        value = [value.get("0"), value.get("1")]
    fits = isinstance(value, list) and len(value) >= 2 and all(map(_is_place, value[:2]))
    return (value[0], value[1]) if fits else None


def _is_place(value: Any) -> bool:
    """Whether a number is one of pixels on a canvas."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST_PLACE


def _read_node(raw: dict[str, Any]) -> Node:
    mode = raw.get("mode", 0)
    where, (width, height) = _pair(raw.get("pos")), _pair(raw.get("size")) or (210, 100)
    return Node(
        raw["id"],
        raw["type"],
        _slots(raw.get("inputs")),
        _slots(raw.get("outputs")),
        raw=raw,
        mode=mode if isinstance(mode, int) else 0,
        place=None if where is None else (*where, width, height),
        title=raw.get("title") if isinstance(raw.get("title"), str) else None,
    )


def _read_link(graph: Graph, raw: Any) -> bool:
    """Read a link; returns whether both its ends are there."""
    parts: list[Any]
    if isinstance(raw, dict):
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        parts, type_ = [raw.get(name) for name in names], raw.get("type")
    elif _is_row(raw):
        parts, type_ = list(raw[:5]), raw[5] if len(raw) > 5 else "*"
    else:
        return True  # null, which pages write for links that were taken away
    number, source, output, target, place = parts
    if not _is_there(graph, number, source, output, target):
        return False
    place = _input_of(graph.nodes[target], number, place)
    if place is None:
        return False
    graph.links[number] = Link(number, source, output, target, place, _type(type_), raw)
    graph.read_links.add(number)
    graph.nodes[source].outputs[output].links.append(number)
    graph.nodes[target].inputs[place].links.append(number)
    return True


def _is_there(graph: Graph, number: Any, source: Any, output: Any, target: Any) -> bool:
    """Whether both nodes and the output of a link exist, and its number is its own."""
    for key in (number, source, target, output):
        if not isinstance(key, (int, str)) or isinstance(key, bool):
            return False
    there = source in graph.nodes and target in graph.nodes and number not in graph.links
    return there and isinstance(output, int) and 0 <= output < len(graph.nodes[source].outputs)


def _input_of(node: Node, number: Any, place: Any) -> int | None:
    """The input that names a link: the node's own list counts, as on the page; links of others are left overs."""
    if node.border:
        return place if isinstance(place, int) and 0 <= place < len(node.inputs) else None
    named = [n for n, slot in enumerate(node.inputs) if (slot.raw or {}).get("link") == number and not slot.links]
    return place if place in named else named[0] if named else None


def write_page(data: dict[str, Any], graphs: list[Graph]) -> dict[str, Any]:
    """The page graph of the models that were read from `data`; what was not touched is as it was."""
    out = copy.copy(data)
    _write_scope(out, graphs[0])
    if len(graphs) > 1:
        subgraphs = [copy.copy(subgraph) for subgraph in data["definitions"]["subgraphs"]]
        for subgraph, graph in zip(subgraphs, graphs[1:], strict=True):
            _write_scope(subgraph, graph)
        out["definitions"] = {**data["definitions"], "subgraphs": subgraphs}
    return out


def _write_scope(scope: dict[str, Any], graph: Graph) -> None:
    read = {raw["id"] for raw in scope["nodes"]}
    as_objects = any(isinstance(raw, dict) for raw in scope.get("links") or []) or "inputNode" in scope
    _write_links(scope, graph, as_objects)
    order = max((raw["order"] for raw in scope["nodes"] if isinstance(raw.get("order"), int)), default=0)
    nodes = []
    for node in graph.nodes.values():
        if node.border:
            continue
        if node.key not in read:
            order += 1
        nodes.append(_write_node(node, order))
    scope["nodes"] = nodes
    for side in ("inputs", "outputs"):
        border = next((n for n in graph.nodes.values() if n.border and n.kind == f"<{side}>"), None)
        if border is not None:
            slots = border.outputs if side == "inputs" else border.inputs
            scope[side] = [{**(slot.raw or {}), "linkIds": slot.links} for slot in slots]
    for name, count in (("last_node_id", graph.counters.last_node), ("last_link_id", graph.counters.last_link)):
        if name in scope:
            scope[name] = count
    if isinstance(scope.get("state"), dict):
        counts = {"lastNodeId": graph.counters.last_node, "lastLinkId": graph.counters.last_link}
        scope["state"] = {**scope["state"], **counts}


def _write_links(scope: dict[str, Any], graph: Graph, as_objects: bool) -> None:
    """Links that could not be read stay; so do the numbers of those that were."""
    kept = [raw for raw in scope.get("links") or [] if not _was_read(raw, graph)]
    gone = {_number(raw) for raw in scope.get("links") or []} - graph.links.keys() - {_number(raw) for raw in kept}
    links: list[Any] = []
    for link in graph.links.values():
        ends = (link.number, link.source, link.output, link.target, link.input)
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        if as_objects:
            old = link.raw if isinstance(link.raw, dict) else {}
            links.append({**old, **dict(zip(names, ends, strict=True)), "type": link.type})
        else:
            old = link.raw if _is_row(link.raw) else []
            links.append([*ends, link.type, *old[6:]])
    scope["links"] = links + kept
    _forget_reroutes(scope, gone)


def _number(raw: Any) -> Any:
    number = raw.get("id") if isinstance(raw, dict) else raw[0] if isinstance(raw, list) and raw else None
    return number if isinstance(number, (int, str)) else None


def _was_read(raw: Any, graph: Graph) -> bool:
    return _number(raw) in graph.read_links


def _forget_reroutes(scope: dict[str, Any], gone: set[Any]) -> None:
    """The points of the page through which links run know their links' numbers."""
    for holder, key in ((scope, "reroutes"), (scope.get("extra"), "reroutes")):
        if isinstance(holder, dict) and isinstance(holder.get(key), list):
            points = _without_unused([_without_links(p, gone) for p in holder[key] if isinstance(p, dict)])
            if holder is scope:
                scope[key] = points
            else:
                scope["extra"] = {**scope["extra"], key: points}
    extra = scope.get("extra")
    if isinstance(extra, dict) and isinstance(extra.get("linkExtensions"), list):
        left = [e for e in extra["linkExtensions"] if not isinstance(e, dict) or e.get("id") not in gone]
        scope["extra"] = {**extra, "linkExtensions": left}


def _without_links(point: dict[str, Any], gone: set[Any]) -> dict[str, Any]:
    links = point.get("linkIds")
    return {**point, "linkIds": [n for n in links if n not in gone]} if isinstance(links, list) else point


def _without_unused(points: list[dict]) -> list[dict]:
    """Points through which a link runs, or which such a point hangs on."""
    used = {p.get("id") for p in points if p.get("linkIds")}
    parents = {p.get("id"): p.get("parentId") for p in points}
    for point in list(used):
        while (point := parents.get(point)) is not None and point not in used:
            used.add(point)
    return [p for p in points if p.get("id") in used or "linkIds" not in p]


def _write_node(node: Node, order: int) -> dict[str, Any]:
    if node.raw is None or node.raw.get("type") != node.kind:
        return _drawn(node, order)
    raw = node.raw
    inputs = [{**(slot.raw or _input(node, slot)), "link": slot.links[0] if slot.links else None}
              for slot in node.inputs]  # fmt: skip
    outputs = [{**(slot.raw or {"name": slot.name, "type": slot.type}), "links": slot.links} for slot in node.outputs]
    changed: dict[str, Any] = {}
    if _links_of(raw.get("inputs"), "link") != [slot["link"] for slot in inputs]:
        changed["inputs"] = inputs
    if [links or [] for links in _links_of(raw.get("outputs"), "links")] != [slot["links"] for slot in outputs]:
        changed["outputs"] = outputs
    if node.place is not None and tuple(node.place[:2]) != _pair(raw.get("pos")):
        changed["pos"] = list(node.place[:2])
    if node.mode != raw.get("mode", 0):
        changed["mode"] = node.mode
    if node.properties:
        before = raw.get("properties")
        changed["properties"] = {**(before if isinstance(before, dict) else {}), **node.properties}
    if node.values and node.kind in TARGETS:
        changed["widgets_values"] = _set_values(raw.get("widgets_values"), TARGETS[node.kind], node.values)
    return {**raw, **changed} if changed else raw


def _links_of(slots: Any, name: str) -> list[Any]:
    """What stands as links in the inputs or outputs of a node of the file."""
    return [slot.get(name) for slot in slots if isinstance(slot, dict)] if isinstance(slots, list) else []


def _set_values(before: Any, target: Target, values: dict[str, Any]) -> Any:
    """Widget values of a node of the file, some of them set anew."""
    if isinstance(before, dict):
        return {**before, **values}
    after = list(before or [])
    for place, name in enumerate(target.page_widgets()):
        if name in values:
            after += [None] * (place + 1 - len(after))
            after[place] = values[name]
    return after


def _input(node: Node, slot: Slot) -> dict[str, Any]:
    target = TARGETS.get(node.kind)
    entry: dict[str, Any] = {"name": slot.name, "type": slot.type}
    if target is not None and slot.name in target.inputs:
        entry["type"] = target.inputs[slot.name].type
        if target.inputs[slot.name].is_widget:
            entry["widget"] = {"name": slot.name}
    return entry


def _drawn(node: Node, order: int) -> dict[str, Any]:
    """A node that a conversion made, or that stands in the place of one."""
    target, old = TARGETS[node.kind], node.raw or {}
    inputs = [{**_input(node, slot), "link": slot.links[0] if slot.links else None} for slot in node.inputs]
    outputs = []
    for place, (name, type_) in enumerate(target.outputs):
        links = node.outputs[place].links if place < len(node.outputs) else []
        outputs.append({"name": name, "type": type_, "links": links, "slot_index": place})
    width, height = node.place[2:] if node.place else target.size()
    drawn = {
        "id": node.key,
        "type": node.kind,
        **({"pos": list(node.place[:2])} if node.place else {}),
        "size": [max(width, target.size()[0]), max(height, target.size()[1])],
        "flags": old.get("flags", {}),
        "order": old.get("order", order),
        "mode": node.mode,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {"Node name for S&R": node.kind, "cnr_id": target.pack},
        "widgets_values": [node.values.get(name, target.default(name)) for name in target.page_widgets()],
    }
    looks: dict[str, Any] = {name: old[name] for name in ("color", "bgcolor", "shape") if name in old}
    title = {} if node.title is None else {"title": node.title}
    return {**drawn, **looks, **title}
