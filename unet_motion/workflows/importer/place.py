"""Finds free places on the page for nodes that a conversion adds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from .graph import Node

CELL = 400  # pixels
GAP, TITLE = 20, 30
REACH = 12  # rows and columns that are tried around a node

Rect = tuple[float, float, float, float]


class Places:
    """Rectangles of nodes, by the cells that they lie in."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.cells: dict[tuple[int, int], list[tuple[object, Rect]]] = defaultdict(list)
        for node in nodes:
            if node.place is not None:
                self._put(node, node.place)

    def near(self, node: Node, size: tuple[float, float]) -> Rect | None:
        """A free place for a node of a size beside another, which it keeps; None where that has no place."""
        if node.place is None:
            return None
        x, y, width, height = node.place
        for left, top in self._tries(x, y, width, height, size):
            rect = (left, top, *size)
            if self._is_free(rect):
                self._put(object(), rect)
                return rect
        rect = (x, y + height + TITLE + GAP, *size)
        self._put(object(), rect)
        return rect

    def grow(self, node: Node, size: tuple[float, float]) -> None:
        """Count a node as large as it becomes."""
        if node.place is not None:
            x, y, width, height = node.place
            node.place = (x, y, max(width, size[0]), max(height, size[1]))
            self._put(node, node.place)

    def _tries(self, x: float, y: float, width: float, height: float, size: tuple[float, float]) -> Iterator[tuple]:
        """Above first, so that a chain reads from left to right below it; then below, then aside."""
        down, across = size[1] + TITLE + GAP, size[0] + GAP * 2
        for step in range(REACH):
            yield x, y - down - step * (TITLE + GAP)
            yield x, y + height + TITLE + GAP + step * (TITLE + GAP)
            yield x + width + GAP * 2 + step * across, y
            yield x - across - step * across, y
        for row in range(1, REACH):
            for column in range(-REACH, REACH):
                yield x + column * across, y + height + TITLE + GAP + row * down

    def _is_free(self, rect: Rect) -> bool:
        x, y, width, height = rect
        box = (x - GAP / 2, y - TITLE - GAP / 2, width + GAP, height + TITLE + GAP)
        return not any(_meet(box, other) for cell in _cells(box) for _, other in self.cells.get(cell, ()))

    def _put(self, owner: object, rect: Rect) -> None:
        box = (rect[0], rect[1] - TITLE, rect[2], rect[3] + TITLE)
        for cell in _cells(box):
            self.cells[cell].append((owner, box))


def _meet(a: Rect, b: Rect) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _cells(box: Rect) -> Iterator[tuple[int, int]]:
    """Cells that a rectangle lies in, at most some thousand."""
    left, top = int(box[0] // CELL), int(box[1] // CELL)
    right, bottom = int((box[0] + box[2]) // CELL), int((box[1] + box[3]) // CELL)
    for column in range(left, min(right, left + 50) + 1):
        for line in range(top, min(bottom, top + 50) + 1):
            yield column, line
