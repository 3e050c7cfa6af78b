"""The results as JSON and as a table for readers, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files.atomic import atomic_file
from .stages import Found, as_json


def write(table: Path, about: dict[str, str], results: Sequence[Found]) -> None:
    """Write `<table>.json`, then the table."""
    with atomic_file(table.with_suffix(".json")) as part:
        part.write_text(json.dumps(as_json(about, results), indent=1) + "\n", encoding="utf-8")
    with atomic_file(table) as part:
        part.write_text(markdown(about, results), encoding="utf-8")


def markdown(about: dict[str, str], results: Sequence[Found]) -> str:
    """A heading for each stage, and a table of its rows."""
    lines = ["# On a card" if "rehearsal" not in about else "# Rehearsal without a card", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    for number, found in enumerate(results, 1):
        lines += ["", f"## {number}. {found.title}", ""]
        state = f"{found.state} in {found.seconds:.1f} s"
        lines += [f"{state}: {found.why}." if found.why else f"{state}.", ""]
        lines += _table(found.rows)
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(entry)}" for name, entry in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")
