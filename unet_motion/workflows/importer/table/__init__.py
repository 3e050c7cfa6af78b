"""How the nodes of other packs read here: the one place that knows their names, inputs and values."""

from .animatediff import ROWS as _ANIMATEDIFF
from .rows import Give, Made, Of, Row, Stage
from .stages import PER_MODULE, RENAMED, SAMPLERS, STAGES
from .targets import CHOICES, KNOWN, TARGETS, Input, Target

ROWS: dict[str, Row] = {row.kind: row for row in _ANIMATEDIFF}

OWNED_PREFIX = "ADE_"
OTHER_PACKS = frozenset(kind for kind, row in ROWS.items() if row.pack)
"""Types of packs other than AnimateDiff-Evolved that the table has."""


def is_old(kind: str) -> bool:
    """Whether nodes of a type are AnimateDiff-Evolved's, known here or not."""
    return kind.startswith(OWNED_PREFIX) or (kind in ROWS and not ROWS[kind].pack)


def one_to_one() -> dict[str, tuple[str, dict[str, str], list[str]]]:
    """Old types for which one node stands, with the same values: its type, our inputs -> theirs, their widgets."""
    found = {}
    for kind, row in ROWS.items():
        stage = STAGES.get(row.gives[0].stage) if len(row.gives) == 1 else None
        values = list(row.gives[0].inputs.items()) if row.gives else []
        same = all(isinstance(value, Of) and value.choices is None for _, value in values)
        outputs = row.emits is not None and (row.emits == {0: (row.home, 0)} or not row.emits)
        rest = row.inputs.keys() - {value.name for _, value in values if isinstance(value, Of)}
        if stage is not None and stage.kind in TARGETS and same and outputs and not rest:
            found[kind] = (stage.kind, {ours: of.name for ours, of in values}, [spec.name for spec in row.widgets()])
    return found


__all__ = [
    "CHOICES",
    "KNOWN",
    "OTHER_PACKS",
    "PER_MODULE",
    "RENAMED",
    "ROWS",
    "SAMPLERS",
    "STAGES",
    "TARGETS",
    "Give",
    "Input",
    "Made",
    "Of",
    "Row",
    "Stage",
    "Target",
    "is_old",
    "one_to_one",
]
