"""Finds free places on the page for nodes that a conversion adds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain

from .graph import Node

CELL = 400  # pixels
GAP, TITLE = 20, 30
REACH = 12  # rows and columns that are tried around a node

Rect = tuple[float, float, float, float]


class Places:
    """Rectangles of nodes, by the cells that they lie in."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.boxes: list[Rect] = []
        self.cells: dict[tuple[int, int], set[int]] = defaultdict(set)
        self.tries: dict[tuple[float, ...], Iterator[tuple[float, float]]] = {}
        self.numbers = {node.key: self._put(node.place) for node in nodes if node.place is not None}

    def near(self, node: Node, size: tuple[float, float]) -> Rect | None:
        """A free place for a node of a size beside another, which it keeps; None where that has no place."""
        if node.place is None:
            return None
        x, y, width, height = node.place
        # What was taken once stays taken: later nodes beside the same one begin behind that.
        tries = self.tries.setdefault((*node.place, *size), self._tries(x, y, width, height, size))
        for left, top in tries:
            rect = (left, top, *size)
            if not self._under(_with_margin(rect)):
                self._put(rect)
                return rect
        rect = (x, y + height + TITLE + GAP, *size)
        self._put(rect)
        return rect

    def grow(self, node: Node, size: tuple[float, float]) -> None:
        """Make a node as large as it becomes; where it would lie over others then, it moves up or aside."""
        if node.place is None:
            return
        x, y, width, height = node.place
        wide, high = max(width, size[0]), max(height, size[1])
        own = self.numbers.get(node.key)
        beneath = {own, *self._under(_box(node.place))}
        places = chain([(x, y), (x, y + height - high)], self._tries(x, y, wide, high, (wide, high)))
        rects: Iterator[Rect] = ((left, top, wide, high) for left, top in places)
        free = (rect for rect in rects if self._under(_box(rect)) <= beneath)
        node.place = place = next(free, (x, y, wide, high))
        if own is None:
            self.numbers[node.key] = self._put(place)
        else:
            self.boxes[own] = _box(place)
            self._enter(own)

    def _tries(
        self, x: float, y: float, width: float, height: float, size: tuple[float, float]
    ) -> Iterator[tuple[float, float]]:
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

    def _under(self, box: Rect) -> set[int]:
        """Numbers of the boxes that a box lies over."""
        return {other for cell in _cells(box) for other in self.cells.get(cell, ()) if _meet(box, self.boxes[other])}

    def _put(self, rect: Rect) -> int:
        """Count a rectangle with its title as taken; returns its number."""
        self.boxes.append(_box(rect))
        self._enter(len(self.boxes) - 1)
        return len(self.boxes) - 1

    def _enter(self, number: int) -> None:
        for cell in _cells(self.boxes[number]):
            self.cells[cell].add(number)


def _box(rect: Rect) -> Rect:
    """A node with its title."""
    return (rect[0], rect[1] - TITLE, rect[2], rect[3] + TITLE)


def _with_margin(rect: Rect) -> Rect:
    x, y, width, height = rect
    return (x - GAP / 2, y - TITLE - GAP / 2, width + GAP, height + TITLE + GAP)


def _meet(a: Rect, b: Rect) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _cells(box: Rect) -> Iterator[tuple[int, int]]:
    """Cells that a rectangle lies in, at most some thousand."""
    left, top = int(box[0] // CELL), int(box[1] // CELL)
    right, bottom = int((box[0] + box[2]) // CELL), int((box[1] + box[3]) // CELL)
    for column in range(left, min(right, left + 50) + 1):
        for line in range(top, min(bottom, top + 50) + 1):
            yield column, line
