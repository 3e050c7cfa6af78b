"""How the nodes of other packs read here: the one place that knows their names, inputs and values."""

from . import animatediff, conditioning, control, other_packs, over_time, pictures, sampling, without
from .rows import BatchOf, Give, Made, Named, Of, Row, Stage
from .stages import (
    BATCHES,
    FURTHER,
    KEYS,
    NO_NODE,
    PER_MODULE,
    PER_PICTURE,
    RENAMED,
    SAMPLERS,
    STAGES,
    stage_of,
)
from .targets import CHOICES, TARGETS, Input, Target
from .values import BETA_SCHEDULES, has_mid_block

_PARTS = (animatediff, sampling, pictures, over_time, conditioning, other_packs, control, without)
ROWS: dict[str, Row] = {row.kind: row for part in _PARTS for row in part.ROWS}

OWNED_PREFIX = "ADE_"
OTHER_PACKS = frozenset(kind for kind, row in ROWS.items() if row.pack)
"""Types of packs other than AnimateDiff-Evolved that the table has."""

KEEPS = frozenset(theirs for theirs, ours in BETA_SCHEDULES.items() if ours == "keep")
"""Noise schedules that leave a MODEL's own."""


def is_old(kind: str) -> bool:
    """Whether nodes of a type are AnimateDiff-Evolved's, known here or not."""
    return kind.startswith(OWNED_PREFIX) or (kind in ROWS and not ROWS[kind].pack)


def written_for(kind: str) -> frozenset[str]:
    """Types of the nodes that stand for one of a type, by its own values."""
    stages = (stage_of(give.stage) for give in ROWS[kind].gives)
    return frozenset(stage.kind for stage in stages if stage is not None)


def one_to_one() -> dict[str, tuple[str, dict[str, str], list[str]]]:
    """Old types for which one node stands, with the same values: its type, our inputs -> theirs, their widgets."""
    found = {}
    for kind, row in ROWS.items():
        stage = stage_of(row.gives[0].stage) if len(row.gives) == 1 else None
        values = list(row.gives[0].inputs.items()) if row.gives else []
        same = all(isinstance(value, Of) and value.choices is None for _, value in values)
        outputs = row.emits is not None and all(goal == (row.home, place) for place, goal in row.emits.items())
        taken = {value.name for _, value in values if isinstance(value, Of)}
        rest = {name for name, spec in row.inputs.items() if name not in taken and spec.type != "ADEWARN"}
        if stage is not None and stage.kind in TARGETS and same and outputs and not rest:
            # Core raises an error where an input that it copies is not there.
            always = all(row.inputs[name].type != "HOOKS" and not name.startswith(("opt_", "prev_")) for name in taken)
            if always:
                names = [spec.name for spec in row.widgets()]
                found[kind] = (stage.kind, {ours: value.name for ours, value in values}, names)
    return found


__all__ = [
    "BATCHES",
    "CHOICES",
    "FURTHER",
    "KEEPS",
    "KEYS",
    "NO_NODE",
    "OTHER_PACKS",
    "PER_MODULE",
    "PER_PICTURE",
    "RENAMED",
    "ROWS",
    "SAMPLERS",
    "STAGES",
    "TARGETS",
    "BatchOf",
    "Give",
    "Input",
    "Made",
    "Named",
    "Of",
    "Row",
    "Stage",
    "Target",
    "has_mid_block",
    "is_old",
    "one_to_one",
    "stage_of",
    "written_for",
]
