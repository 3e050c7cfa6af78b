"""A graph of ComfyUI, in the form of its API and in that of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAGE_ONLY = ("control_after_generate",)
"""Widgets that the page adds and the API does not know."""


@dataclass(frozen=True)
class _Node:
    """A node: its widgets in the page's order, its links as input -> (node, output), and where it stands."""

    kind: str
    widgets: Mapping[str, Any]
    links: Mapping[str, tuple[int, int]]
    outputs: tuple[tuple[str, str], ...]
    place: tuple[int, int, int, int]
    title: str | None = None


class Graph:
    """Nodes that are joined, numbered from 1."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []

    def add(self, kind, place, outputs=(), links=None, widgets=None, title=None) -> int:
        """Add a node; returns its number.

        outputs: (name, type) of each. links: input -> (node, output). widgets: input -> value, in the page's order.
        place: x, y, width, height. title: where it is not the node's own.
        """
        self.nodes.append(_Node(kind, widgets or {}, links or {}, tuple(outputs), place, title))
        return len(self.nodes)

    def prompt(self) -> dict[str, Any]:
        """What ComfyUI's API takes."""
        graph = {}
        for number, node in enumerate(self.nodes, 1):
            links = {name: [str(source), output] for name, (source, output) in node.links.items()}
            inputs = {**{name: value for name, value in node.widgets.items() if name not in PAGE_ONLY}, **links}
            title = {"title": node.title or node.kind}
            graph[str(number)] = {"class_type": node.kind, "inputs": inputs, "_meta": title}
        return graph

    def workflow(self) -> dict[str, Any]:
        """What ComfyUI's page saves and opens."""
        links = self._links()
        return {
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": [self._drawn(number, links) for number in range(1, len(self.nodes) + 1)],
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def _links(self) -> list[list]:
        """[number, from node, its output, to node, its input, type] of each link."""
        links: list[list] = []
        for number, node in enumerate(self.nodes, 1):
            for place, (source, output) in enumerate(node.links.values()):
                kind = self.nodes[source - 1].outputs[output][1]
                links.append([len(links) + 1, source, output, number, place, kind])
        return links

    def _drawn(self, number: int, links: list[list]) -> dict[str, Any]:
        node = self.nodes[number - 1]
        into = {link[4]: link for link in links if link[3] == number}
        inputs = [
            {"name": name, "type": into[place][5], "link": into[place][0]} for place, name in enumerate(node.links)
        ]
        outputs = []
        for slot, (name, kind) in enumerate(node.outputs):
            out = [link[0] for link in links if link[1:3] == [number, slot]]
            outputs.append({"name": name, "type": kind, "links": out, "slot_index": slot})
        x, y, width, height = node.place
        drawn = {
            "id": number,
            "type": node.kind,
            "pos": [x, y],
            "size": [width, height],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": {"Node name for S&R": node.kind, "cnr_id": pack_of(node.kind)},
            "widgets_values": list(node.widgets.values()),
        }
        return drawn if node.title is None else {**drawn, "title": node.title}


def pack_of(kind: str) -> str:
    """The pack of a node, as the ComfyUI registry calls it: the page offers it where it is missing."""
    return "unet-motion" if kind.startswith("UNetMotion_") else "comfy-core"
