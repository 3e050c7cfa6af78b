"""API graphs: {key: {class_type, inputs}}, where an input is a value or [key, output] of another node."""

from __future__ import annotations

import copy
from typing import Any

from .graph import Counters, Graph, Node, Slot, WorkflowError
from .report import Report

ANY = "*"


def is_api_graph(data: Any) -> bool:
    """Whether this is a graph as the API takes it."""
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(node, dict) and isinstance(node.get("class_type"), str) for node in data.values())
    )


def is_link(value: Any) -> bool:
    """Whether the value of an input is a link to another node's output."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], (str, int))
        and not isinstance(value[0], bool)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def read_api(data: dict[str, Any], report: Report) -> Graph:
    """The model of an API graph.

    Raises:
        WorkflowError: a node's inputs are no object.
    """
    numbers = [int(key) for key in data if key.isascii() and key.isdecimal() and len(key) < 16]
    graph = Graph(Counters(max(numbers, default=0), 0, text_keys=True))
    for key, raw in data.items():
        inputs = raw.get("inputs", {})
        if not isinstance(inputs, dict):
            raise WorkflowError(f"Node {key} has inputs of type {type(inputs).__name__}, expected an object.")
        values = {name: value for name, value in inputs.items() if not is_link(value)}
        title = raw.get("_meta", {}).get("title") if isinstance(raw.get("_meta"), dict) else None
        title = title if isinstance(title, str) else None
        graph.add(Node(key, raw["class_type"], values=values, raw=raw, title=title))
    for key, raw in data.items():
        node = graph.nodes[key]
        for name, value in raw.get("inputs", {}).items():
            if not is_link(value):
                continue
            source = str(value[0])
            if source not in graph.nodes or value[1] < 0 or value[1] > 1000:
                report.note(node, f"its {name} is linked to node {source}, which is not there; left as it is")
                node.values[name] = value
                continue
            node.inputs.append(Slot(name, ANY))
            graph.join(source, value[1], key, name, ANY)
    return graph


def write_api(graph: Graph) -> dict[str, Any]:
    """The API graph of a model; nodes that were not touched are as they were read."""
    out: dict[str, Any] = {}
    for key, node in graph.nodes.items():
        links = {
            slot.name: [graph.links[slot.links[0]].source, graph.links[slot.links[0]].output]
            for slot in node.inputs
            if slot.links
        }
        raw = copy.deepcopy(node.raw) if node.raw is not None else {"inputs": {}, "class_type": node.kind}
        before = raw.get("inputs", {})
        inputs = {}
        for name in before:  # in the order of the file
            if name in links:
                inputs[name] = links[name]
            elif name in node.values:
                inputs[name] = node.values[name]
        rest = {**node.values, **links}
        inputs.update({name: value for name, value in rest.items() if name not in inputs})
        raw["inputs"] = inputs
        if node.raw is None:
            raw["_meta"] = {"title": node.title or node.kind}
        out[str(key)] = raw
    return out
