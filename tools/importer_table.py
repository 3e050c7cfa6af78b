"""Write the tables in docs/coming-from-animatediff-evolved.md from the code's: `python3 tools/importer_table.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "coming-from-animatediff-evolved.md"
BLOCK = re.compile(r"(<!-- (\w+): made by tools/importer_table\.py -->\n)(.*?)(<!-- end -->)", re.S)


def renewed(text: str) -> str:
    """The page's text with its tables between their marks."""
    from unet_motion.workflows.importer.table.documented import missing_table, support_table

    tables = {"nodes": support_table(), "packs": support_table(packs=True), "missing": missing_table()}
    return BLOCK.sub(lambda found: found[1] + tables[found[2]] + found[4], text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(renewed(PAGE.read_text()))
