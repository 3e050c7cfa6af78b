"""Write the table of motion modules in docs/formats.md from the code's: `python3 tools/kinds_table.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- motion modules: made by tools/kinds_table\.py -->\n)(.*?)(<!-- end -->)", re.S)


def renewed(text: str, table: str) -> str:
    """The page's text with the table between its two marks.

    Raises:
        ValueError: the marks are not there.
    """
    if not BLOCK.search(text):
        raise ValueError("the page has no place for the table, expected the comments `motion modules` and `end`.")
    return BLOCK.sub(lambda found: found[1] + table + found[3], text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from unet_motion.formats.kinds import support_table

    page = ROOT / "docs" / "formats.md"
    page.write_text(renewed(page.read_text(), support_table()))
