"""A progress bar where tqdm is installed and someone is looking, and one line at the end where not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int | None = None, description: str = "", enabled: bool = True) -> Iterator[T]:
    """Yield `items` and show on standard error how far they are.

    With tqdm and a terminal: a bar. Otherwise: one line when the last item is done, so that logs stay short.
    With `enabled=False`: nothing.
    """
    if not enabled:
        yield from items
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    bar = _tqdm() if has_bar() else None
    if bar is not None:
        yield from bar(items, total=total, desc=description, leave=True)
        return
    start = time.perf_counter()
    count = 0
    for item in items:
        yield item
        count += 1
    seconds = time.perf_counter() - start
    print(f"{description or 'done'}: {count} of {total or count} in {seconds:.1f} s", file=sys.stderr)


def has_bar() -> bool:
    """Whether `track` shows a bar, which other lines on the console would break."""
    return sys.stderr.isatty() and _tqdm() is not None


def _tqdm():
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
