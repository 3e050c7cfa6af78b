"""The help page's tables are the code's."""

from pathlib import Path

from tools.importer_table import PAGE, renewed
from unet_motion.workflows.importer.table import ROWS


def test_the_pages_tables_are_made_of_the_table():
    text = PAGE.read_text()
    assert renewed(text) == text
    assert all(f"`{kind}`" in text for kind in ROWS)
    assert renewed(text.replace("`ADE_UseEvolvedSampling`", "`ADE_Other`")) == text


def test_the_readme_names_the_page():
    assert f"docs/{PAGE.name}" in (Path(__file__).parents[2] / "README.md").read_text()
