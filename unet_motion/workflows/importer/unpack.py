"""Turns group nodes, and subgraphs into which settings lead, into the nodes that they stand for.

The page does the same on request. A group node's definition is in `extra.groupNodes`, its nodes are `workflow>NAME`
(older: `workflow/NAME`); its inputs, outputs and widgets are those of its nodes that nothing inside is linked to, in
their order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from .graph import Node
from .page import fresh_numbers, place_of, read_page
from .report import Report
from .scope import End, Part, Scope, Value, entries
from .settings import SETTING_TYPES
from .table import RENAMED, is_old

PREFIXES = ("workflow>", "workflow/")
CROSSING = SETTING_TYPES | RENAMED.keys()
MOST = 5000  # nodes, in all that is unpacked


def unpacked(data: dict[str, Any], report: Report) -> dict[str, Any]:
    """A page graph without the group nodes and subgraphs of which old nodes' settings cross the border.

    The one that is given stays as it is, and is given back where there is nothing to do.
    """
    groups, subgraphs = _groups(data), _subgraphs(data)
    if not groups and not subgraphs:
        return data
    read_page(data, Report())  # which refuses what is no graph
    data = copy.deepcopy(data)
    scopes = [data, *_definitions(data)]
    numbers, count = fresh_numbers(scopes), 0

    def known(raw: dict[str, Any], inside: frozenset[str]) -> bool:
        return (_name(raw) in groups or str(raw.get("type")) in subgraphs) and str(raw.get("type")) not in inside

    for scope in scopes:
        nowhere: frozenset[str] = frozenset()
        waiting = [(raw, nowhere) for raw in scope["nodes"] if known(raw, nowhere)]
        while waiting and count < MOST:
            raw, inside = waiting.pop()
            report.note(Node(raw.get("id"), str(raw["type"])), "was turned into the nodes that it stands for")
            name = _name(raw)
            part = _of_group(groups[name], raw, report) if name in groups else _of_subgraph(subgraphs[raw["type"]], raw)
            new = Scope(scope, numbers).replace(raw, part, place_of)
            count += len(new)
            inside |= {str(raw["type"])}
            waiting += [(one, inside) for one in new if known(one, inside)]
    _forget(data, groups, subgraphs)
    return data


def _forget(data: dict[str, Any], groups: dict[str, dict], subgraphs: dict[str, dict]) -> None:
    """Definitions that nothing is an instance of any more would be reported as missing nodes."""
    used = {str(raw.get("type")) for scope in [data, *_definitions(data)] for raw in scope["nodes"]}
    for name in groups:
        if not used & {f"{prefix}{name}" for prefix in PREFIXES}:
            del data["extra"]["groupNodes"][name]
    if subgraphs:
        kept = [one for one in data["definitions"]["subgraphs"] if one.get("id") not in subgraphs
                or one.get("id") in used]  # fmt: skip
        data["definitions"]["subgraphs"] = kept


def _name(raw: dict[str, Any]) -> str | None:
    """The name of the group that a node is one of."""
    kind = str(raw.get("type"))
    return next((kind[len(prefix) :] for prefix in PREFIXES if kind.startswith(prefix)), None)


def _definitions(data: dict[str, Any]) -> list[dict[str, Any]]:
    definitions = data.get("definitions")
    found = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _groups(data: dict[str, Any]) -> dict[str, dict]:
    """Definitions of groups with old nodes in them, or with such groups."""
    extra = data.get("extra")
    all_ = extra.get("groupNodes") if isinstance(extra, dict) else None
    all_ = {name: one for name, one in (all_ if isinstance(all_, dict) else {}).items() if _is_sound(one)}
    found: dict[str, dict] = {}
    for _ in all_:
        more = {name: one for name, one in all_.items() if name not in found and any(
            is_old(str(raw["type"])) or _name(raw) in found for raw in one["nodes"])}  # fmt: skip
        found |= more
        if not more:
            break
    return found


def _is_sound(one: Any) -> bool:
    nodes = one.get("nodes") if isinstance(one, dict) else None
    links = one.get("links", []) if isinstance(one, dict) else None
    return (
        isinstance(nodes, list)
        and all(isinstance(raw, dict) and isinstance(raw.get("type"), str) for raw in nodes)
        and isinstance(links, list)
        and all(isinstance(link, list) and len(link) >= 4 and all(map(_is_key, link[:4])) for link in links)
    )


def _is_key(value: Any) -> bool:
    return isinstance(value, (int, str, type(None)))


def _subgraphs(data: dict[str, Any]) -> dict[str, dict]:
    """Subgraphs whose border settings cross, or of which an instance shows widgets of old nodes."""
    found = {}
    scopes = [data, *_definitions(data)]
    for one in _definitions(data):
        nodes, sides = one.get("nodes"), [*entries(one.get("inputs")), *entries(one.get("outputs"))]
        if not isinstance(nodes, list) or not isinstance(one.get("id"), str):
            continue
        old = {str(raw.get("id")) for raw in entries(nodes) if is_old(str(raw.get("type")))}
        instances = (raw for scope in scopes for raw in entries(scope.get("nodes")) if raw.get("type") == one["id"])
        shown = {str(pair[0]) for raw in instances for pair in _proxies(raw)}
        if old & shown or any(str(side.get("type")) in CROSSING for side in sides):
            found[one["id"]] = one
    return found


def _proxies(raw: dict[str, Any]) -> Iterator[list]:
    properties = raw.get("properties")
    pairs = properties.get("proxyWidgets") if isinstance(properties, dict) else None
    yield from (pair for pair in pairs if isinstance(pair, list) and pair) if isinstance(pairs, list) else ()


def _of_group(group: dict[str, Any], instance: dict[str, Any], report: Report) -> Part:
    nodes = dict(enumerate(group["nodes"]))
    links = [(*link[:4], str(link[5]) if len(link) > 5 else "*") for link in group.get("links", [])
             if link[0] in nodes and link[2] in nodes]  # fmt: skip
    part = Part(nodes, links)
    taken = {(target, slot) for _, _, target, slot, _ in links}
    given = {(source, slot) for source, slot, *_ in links}
    external = group.get("external")
    outside = {tuple(entry[:2]) for entry in (external if isinstance(external, list) else ())
               if isinstance(entry, list) and all(map(_is_key, entry[:2]))}  # fmt: skip
    ins: list[tuple[End, dict]] = []
    converted: list[tuple[End, dict]] = []
    outs: list[tuple[End, dict]] = []
    for number, raw in nodes.items():
        config = _config(group, number)
        for slot, entry in enumerate(entries(raw.get("inputs"))):
            if (number, slot) not in taken and config("input", entry.get("name")).get("visible") is not False:
                (converted if entry.get("widget") else ins).append(((number, slot), entry))
        for slot, entry in enumerate(entries(raw.get("outputs"))):
            hidden = (number, slot) in given and (number, slot) not in outside
            if config("output", str(slot)).get("visible", not hidden):
                outs.append(((number, slot), entry))
    sockets = [(slot, entry) for slot, entry in enumerate(entries(instance.get("inputs"))) if not entry.get("widget")]
    part.inputs = {slot: [end] for slot, end in _paired(sockets, ins, converted)}
    part.outputs = dict(_paired(list(enumerate(entries(instance.get("outputs")))), outs, []))
    part.values = _group_values(nodes, instance, report)
    return part


def _config(group: dict[str, Any], number: int):
    """Reads what a group's user set for a slot of one of its nodes: `visible`, `name`."""
    whole = group.get("config")
    own = whole.get(str(number)) if isinstance(whole, dict) else None

    def read(side: str, name: Any) -> dict[str, Any]:
        entries = own.get(side) if isinstance(own, dict) else None
        entry = entries.get(name) if isinstance(entries, dict) and isinstance(name, str) else None
        return entry if isinstance(entry, dict) else {}

    return read


def _paired(slots: list, ends: list, more: list) -> Iterator[tuple[int, End]]:
    """The instance's slots with the ends inside that they stand for: by their order, where there are as many."""
    for candidates in (ends, [*ends, *more]):
        if len(candidates) == len(slots):
            yield from ((slot, end) for (slot, _), (end, _) in zip(slots, candidates, strict=True))
            return
    rest = [*ends, *more]
    for slot, entry in slots:
        fits = (one for one in rest if one[1].get("type") == entry.get("type")
                and str(entry.get("name", "")).endswith(str(one[1].get("name", ""))))  # fmt: skip
        found = next(fits, None)
        if found is not None:
            rest.remove(found)
            yield slot, found[0]


def _group_values(nodes: dict[Any, dict], instance: dict[str, Any], report: Report) -> list[Value]:
    """Values of the instance's widgets, which are those of its nodes one behind the other."""
    given = instance.get("widgets_values")
    if not isinstance(given, list) or not given:
        return []
    own = {number: values for number, raw in nodes.items() if isinstance(values := raw.get("widgets_values"), list)}
    if sum(map(len, own.values())) != len(given):
        text = "its values are not as many as its nodes have: those of its definition count"
        report.change(Node(instance["id"], str(instance.get("type"))), text)
        return []
    rest = iter(given)
    return [(number, None, [next(rest) for _ in values]) for number, values in own.items()]


def _of_subgraph(subgraph: dict[str, Any], instance: dict[str, Any]) -> Part:
    nodes = {raw.get("id"): raw for raw in entries(subgraph["nodes"])}
    part = Part(nodes, [])
    names = {str(entry.get("name")): slot for slot, entry in enumerate(entries(instance.get("inputs")))}
    borders = entries(subgraph.get("inputs"))
    for link in entries(subgraph.get("links")):
        ends: list[Any] = [link.get(name) for name in ("origin_id", "origin_slot", "target_id", "target_slot")]
        if not all(map(_is_key, ends)):
            continue
        source, output, target, place = ends
        if source in nodes and target in nodes:
            part.links.append((source, output, target, place, str(link.get("type", "*"))))
        elif source == -10 and target in nodes and isinstance(output, int) and 0 <= output < len(borders):
            part.inputs.setdefault(names.get(str(borders[output].get("name")), output), []).append((target, place))
        elif target == -20 and source in nodes:
            part.outputs[place] = (source, output)
    values = instance.get("widgets_values")
    shown = [slot for slot, entry in enumerate(entries(instance.get("inputs"))) if entry.get("widget")]
    if isinstance(values, list) and len(values) == len(shown):
        for slot, value in zip(shown, values, strict=True):
            for number, place in part.inputs.get(slot, ()):
                inside = entries(nodes[number].get("inputs"))
                if isinstance(place, int) and place < len(inside):
                    part.values.append((number, inside[place].get("name"), value))
    return part
