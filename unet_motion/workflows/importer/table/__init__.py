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
]
