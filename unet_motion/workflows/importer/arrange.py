"""Lays out a canvas whose nodes have no places: columns from the first nodes to the last."""

from __future__ import annotations

from .graph import Graph, Key, Node

GAP, TITLE = 60, 30  # pixels
LINE, TEXT, PICTURE = 26, 120, 300
TALLEST = 2400
PICTURES = ("LoadImage", "PreviewImage", "SaveImage", "UNetMotion_SaveClip", "LoadVideo")


def is_heap(graph: Graph) -> bool:
    """Whether the nodes of a page's canvas have no places, or all the same one, as pages open those."""
    places = [None if node.place is None else node.place[:2] for node in graph.nodes.values() if not node.border]
    return not graph.counters.text_keys and len(set(places)) == 1 and (len(places) > 1 or places[0] is None)


def arrange(graph: Graph) -> None:
    """Give all nodes of a page's canvas a place: behind all that they read, none over another."""
    nodes = [node for node in graph.nodes.values() if not node.border]
    depths = _depths(graph, nodes)
    columns: dict[int, list[Node]] = {}
    for node in nodes:
        columns.setdefault(depths[node.key], []).append(node)
    middles: dict[Key, float] = {}
    x = 0.0
    for depth in sorted(columns):
        column = sorted(columns[depth], key=lambda node: _height_of_sources(graph, node, middles))
        x += _stack(column, x, middles)


def _depths(graph: Graph, nodes: list[Node]) -> dict[Key, int]:
    """How many nodes stand before each, on the longest way; a link that closes a circle does not count."""
    waiting = {node.key: 0 for node in nodes}
    for link in graph.links.values():
        if link.source in waiting and link.target in waiting:
            waiting[link.target] += 1
    depths = dict.fromkeys(waiting, 0)
    ready = [key for key, count in waiting.items() if not count]
    left = {key: None for key, count in waiting.items() if count}
    while ready or left:
        key = ready.pop() if ready else next(iter(left))
        left.pop(key, None)
        for target, _ in graph.readers(graph.nodes[key]):
            if target.key not in left:
                continue
            depths[target.key] = max(depths[target.key], depths[key] + 1)
            waiting[target.key] -= 1
            if not waiting[target.key]:
                del left[target.key]
                ready.append(target.key)
    return depths


def _height_of_sources(graph: Graph, node: Node, middles: dict[Key, float]) -> float:
    found = [middles[graph.links[number].source] for slot in node.inputs for number in slot.links
             if graph.links[number].source in middles]  # fmt: skip
    return sum(found) / len(found) if found else 0.0


def _stack(column: list[Node], left: float, middles: dict[Key, float]) -> float:
    """Put nodes below each other, in several columns where they are many; returns the width that they take."""
    x, y, widest = left, 0.0, 0.0
    for node in column:
        width, height = _size(node)
        if y and y + height > TALLEST:
            x, y, widest = x + widest + GAP, 0.0, 0.0
        node.place = (x, y, width, height)
        middles[node.key] = y + height / 2
        y += height + TITLE + GAP
        widest = max(widest, width)
    return x + widest + 2 * GAP - left


def _size(node: Node) -> tuple[float, float]:
    """The size of a node, or about that which the page gives it: by its slots and widgets."""
    if node.place is not None and "size" in (node.raw or {}):
        return node.place[2:]
    values = (node.raw or {}).get("widgets_values") or list(node.values.values())
    values = list(values.values()) if isinstance(values, dict) else values if isinstance(values, list) else []
    lines = max(len(node.inputs), len(node.outputs)) + len(values)
    long = sum(isinstance(value, str) and (len(value) > 60 or "\n" in value) for value in values)
    texts = long or (node.kind == "CLIPTextEncode")
    return 340.0, 40.0 + LINE * lines + TEXT * texts + (PICTURE if node.kind in PICTURES else 0)
