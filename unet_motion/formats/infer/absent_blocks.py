"""Files that hold the motion modules of some blocks only, such as the way down: the other blocks add no motion.

What is left out is decided by whole blocks; a block with a tensor of its own must have all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ...files.assign import initialise
from ...files.checking import Shapes
from ...files.errors import warn_caller
from ...files.names import is_table
from ...ops.sinusoids import sinusoidal_table

PARTIAL_KINDS = ("motion_module", "motion_adapter", "animatediff_unet")
"""Kinds of files that may leave blocks out; the others say in their configuration what they hold."""

_BLOCK = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.motion_modules\.")


def motion_block(name: str) -> str | None:
    """The block whose motion a tensor is part of, such as ``up_blocks.1``; None for other tensors."""
    match = _BLOCK.match(name)
    return match[1] if match else None


def motion_blocks(names: Iterable[str]) -> tuple[str, ...]:
    """Blocks that have a tensor of motion modules, in the order of the names."""
    return tuple(dict.fromkeys(block for name in names if (block := motion_block(name))))


def without_absent(found: Iterable[str], expected: Shapes, kind: str) -> dict[str, Sequence[int]]:
    """The expected shapes without blocks of which nothing was found; all where the kind leaves none out."""
    if kind not in PARTIAL_KINDS:
        return dict(expected)
    blocks = {None, *motion_blocks(found)}
    return {name: shape for name, shape in expected.items() if motion_block(name) in blocks}


def present_blocks(found: Iterable[str], expected: Iterable[str]) -> tuple[str, ...] | None:
    """The blocks with motion, where some that are expected have none; None where all have."""
    every, blocks = motion_blocks(expected), set(motion_blocks(found))
    return None if blocks.issuperset(every) else tuple(block for block in every if block in blocks)


def name_blocks(blocks: Sequence[str]) -> str:
    """``down_blocks.0-2, mid_block and up_blocks.1`` of blocks in their order."""
    runs: list[list[str]] = []
    for block in blocks:
        way, _, number = block.partition(".")
        if runs and number and runs[-1][-1] == f"{way}.{int(number) - 1}":
            runs[-1].append(block)
        else:
            runs.append([block])
    names = [run[0] if len(run) == 1 else f"{run[0]}-{run[-1].partition('.')[2]}" for run in runs]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def warn_partial(path: str | Path, blocks: Sequence[str] | None) -> None:
    """Say which blocks have motion, unless all have."""
    if blocks is not None:
        warn_caller(
            f"{path}: holds a part of a motion module, for {name_blocks(blocks)}; the other blocks add no motion."
        )


def idle_values(
    names: Iterable[str], shapes: Shapes, dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Values of motion modules that change nothing, always the same ones, and their position tables."""
    names, generator = list(names), torch.Generator(device).manual_seed(0)
    values = initialise((name for name in names if not is_table(name)), shapes, dtype, device, generator)
    tables = [name for name in names if is_table(name)]
    made = {name: sinusoidal_table(shapes[name][1], shapes[name][2]) for name in tables}
    return values | {name: table.to(device=device, dtype=dtype) for name, table in made.items()}
