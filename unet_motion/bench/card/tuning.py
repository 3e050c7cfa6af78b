"""Tries tiles and warps of each kernel at each size, and writes the fastest in the form that the kernels read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ...files.atomic import atomic_file
from ...ops.dispatch import KERNELS
from ...ops.tuning import capability, choosing, read
from .kernel_checks import declines, reference, works_on
from .sizes import Level, Sizes
from .stages import Card, Found
from .timing import milliseconds

WORTH = 1.02
"""How many times as fast as the launcher's own numbers a choice has to be, or as the launches whose place it takes."""

TRIED = {
    "GEGLU inside the product": "geglu_product",
    "temporal attention": "temporal_attention",
    "residual, layer norm and positions": "layer_norm",
    "GEGLU": "geglu",
    "group norm and SiLU": "group_norm",
    "residual sum and bias": "residual_sum",
    "rounding to float8": "float8",
    "FreeU v1 and concatenation": "freeu",
}
"""What is timed -> the kernel whose numbers are tried, by how much of a step it is."""

PRODUCTS = (
    (128, 128, 64, 8, 3), (128, 64, 64, 8, 3), (128, 128, 64, 8, 4), (256, 64, 64, 8, 3), (128, 64, 32, 4, 4),
    (64, 128, 64, 4, 3), (64, 64, 64, 4, 4),
)  # fmt: skip
"""ROWS, BLOCK, DEPTH, warps and stages of products; of those with more shared memory than there is, a row tells."""


def grid(kernel: str) -> Iterator[dict[str, int]]:
    """The choices of a kernel."""
    if kernel == "temporal_attention":
        for chunk in (16, 32, 64):
            yield {"TILE": 16, "CHUNK": chunk, "num_warps": 1}
        for tile, warps in ((32, 1), (32, 2), (64, 2), (64, 4), (64, 8)):
            yield {"TILE": tile, "num_warps": warps}
    elif kernel == "layer_norm":
        for rows, warps in product((1, 2, 4), (1, 2, 4, 8)):
            yield {"ROWS": rows, "num_warps": warps}
    elif kernel == "geglu_product":
        for rows, block, depth, warps, stages in PRODUCTS:
            yield {"ROWS": rows, "BLOCK": block, "DEPTH": depth, "num_warps": warps, "num_stages": stages}
    elif kernel in ("float8", "geglu", "residual_sum"):
        for (rows, block), warps in product(((1, 1024), (4, 512), (8, 256), (16, 256)), (4, 8)):
            yield {"ROWS": rows, "BLOCK": block, "num_warps": warps}
    else:
        for piece, block, warps in product((32, 64, 128), (64, 128), (4, 8)):
            yield {"PIECE": piece, "BLOCK": block, "num_warps": warps}


@torch.no_grad()
def stage(card: Card, found: Found) -> None:
    """A row for each kernel and size; the file is written after each of them."""
    file = card.out / f"tuned-{capability(card.device) if card.on_gpu else 'rehearsal'}.json"
    entries: list[dict[str, Any]] = []
    for dtype in card.sizes.step_dtypes:
        for level in card.sizes.levels:
            tried = [(w, k, size) for w, k in TRIED.items() for size in tried_at(k, level, card.sizes)]
            for words, kernel, size in tried:
                with found.row(f"{words}, {str(dtype).removeprefix('torch.')}, {size}") as row:
                    entries += best_of(card, row, words, kernel, size, dtype)
                    write(file, entries)


def tried_at(kernel: str, level: Level, sizes: Sizes) -> list[Level]:
    """A level, and for a kernel without numbers of its own for other sizes those that real steps have there too."""
    smaller = sizes.fewer if KERNELS[kernel].measured else ()
    return [level, *(replace(level, clips=level.clips // clips, side=level.side // side) for clips, side in smaller)]


def best_of(
    card: Card, row: dict[str, Any], words: str, kernel: str, level: Level, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """The entry of the fastest choice, or none where the launcher's own numbers are as fast.

    A kernel that takes the place of several launches, and runs only where it has an entry, is measured beside those.
    """
    why = declines(words, card.device, dtype)
    if why is not None:
        row["result"] = f"not measured: {why}"
        return []
    works, apart, _ = works_on(words, level, dtype, card.device, card.sizes.input_sets)
    to_beat = row["own ms"] = milliseconds(works, card.device, card.sizes.repeats)
    if apart:
        to_beat = row["apart ms"] = milliseconds(apart, card.device, card.sizes.repeats)
    compared = reference(words, level, dtype, card.device)
    times: list[tuple[float, dict[str, int]]] = []
    sizes: dict[str, int] = {}
    for use in list(grid(kernel))[: card.sizes.tries]:
        with choosing(kernel, **use) as asked:
            try:
                if compared.as_exact(compared.error()):
                    times.append((milliseconds(works, card.device, card.sizes.repeats), use))
                else:
                    row["failed"] = f"{use}: other values"
            except Exception as reason:  # more shared memory or registers than there are
                row["failed"] = f"{use}: {str(reason)[:100]}"
        sizes = dict(asked[-1]) if asked else sizes
    row["tried"] = len(times)
    if not times:
        return []
    row["best ms"], row["best"] = min(times, key=lambda entry: entry[0])
    if to_beat < WORTH * row["best ms"]:
        return []
    entry = {"kernel": kernel, "dtype": str(dtype).removeprefix("torch."), "sizes": sizes, "use": row["best"]}
    return [{**entry, "times as fast": round(to_beat / row["best ms"], 3)}]


def write(file: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the entries, one a line, and read them as the kernels will."""
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    with atomic_file(file) as part:
        part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        read(part)
