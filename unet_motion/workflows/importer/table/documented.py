"""The table as people read it, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from . import ROWS, SAMPLERS
from .rows import Only, Row
from .stages import NO_NODE, stage_of


def support_table(packs: bool = False) -> str:
    """A row for each node: AnimateDiff-Evolved's, or those of other packs."""
    lines = ["| node | becomes | no counterpart have |", "|---|---|---|"]
    lines += [_line(row) for row in ROWS.values() if bool(row.pack) == packs and row.why is None]
    return "\n".join(lines) + "\n"


def missing_table() -> str:
    """What has no counterpart, and why."""
    reasons: dict[str, list[str]] = {}
    for row in ROWS.values():
        if row.why is not None:
            reasons.setdefault(row.why, []).append(f"`{row.kind}`")
    lines = ["| why | nodes |", "|---|---|"]
    return "\n".join([*lines, *(f"| {why} | {', '.join(kinds)} |" for why, kinds in reasons.items())]) + "\n"


def _line(row: Row) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, only in row.only.items():
        reasons.setdefault((_other(only), only.lost), []).append(f"`{name}`")
    lost = [f"{', '.join(names)}{other}: {why}" for (other, why), names in reasons.items()]
    return f"| `{row.kind}` | {_becomes(row)} | {'; '.join(lost)} |"


def _other(only: Only) -> str:
    """Which values of an input have no counterpart."""
    values = [value for value in only.values if value is not None]
    known = list(dict.fromkeys(f"`{value:g}`" if isinstance(value, float) else f"`{value}`" for value in values))
    return f" other than {' or '.join(known)}" if known else ""


def _becomes(row: Row) -> str:
    """The nodes that a row's own values go to, each named once."""
    words = list(dict.fromkeys(filter(None, _goals(row))))
    if not words and row.emits is not None:
        return "nothing: what it gets goes on"
    return ", ".join(words) or "the nodes of what it collects"


def _goals(row: Row) -> Iterator[str]:
    names = [give.stage for give in row.gives if not give.weak and not (give.stage == "value" and row.folds)]
    names += [goal.partition(":")[0] for goals in row.reads.values() for goal in goals.values()] if not names else []
    names += row.folds
    written = [name for name in names if stage_of(name) is None or stage_of(name).kind != NO_NODE]
    for name in written or [give.stage for give in row.gives]:
        stage = stage_of(name)
        if name == "sampler":
            yield f"`cfg` of {', '.join(f'`{kind}`' for kind in SAMPLERS)}"
        elif stage is None:
            yield "`UNetMotion_MotionAmount`"  # a value, which is a scale or an effect in most graphs
        elif stage.kind != NO_NODE:
            yield f"`{stage.kind}`"
            if stage.makes:
                yield f"`{stage_of(stage.feeds[0][0]).kind}`"
