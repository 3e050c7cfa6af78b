"""Patterns of attention layers against `fnmatch`, whose rules they follow."""

from __future__ import annotations

import fnmatch
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from unet_motion.forward.processor_plan import _Rule, matches_stars

LETTERS = st.text("ab.", max_size=6)
PATTERNS = st.lists(LETTERS, min_size=1, max_size=4).map("*".join)


@given(PATTERNS, st.text("ab.", max_size=12))
def test_patterns_match_as_fnmatch_says(pattern, text):
    assert matches_stars(text, pattern) is fnmatch.fnmatchcase(text, pattern)


@given(PATTERNS, st.lists(LETTERS, min_size=3, max_size=3))
def test_whatever_stands_for_the_stars_matches(pattern, stars):
    text = pattern
    for star in stars:
        text = text.replace("*", star, 1)
    assert matches_stars(text, pattern)


def test_marks_and_sets_of_letters_match_too():
    some = _Rule("blocks.[01].*", None)
    assert some.matches("blocks.1.attn") and not some.matches("blocks.2.attn") and not some.matches("block.1.attn")
    one = _Rule("block?1.processor", None)
    assert one.matches("block_1") and not one.matches("block1") and not one.matches("block_10")


def test_a_model_and_a_pipeline_start_without_torchs_compiler():
    """It takes as long to import as torch itself, in each process."""
    code = (
        "import sys, torch\n"
        "of_torch = set(sys.modules)\n"
        "import unet_motion\n"
        "unet_motion.UNetMotionModel, unet_motion.MotionPipeline\n"
        "print(sorted(m for m in set(sys.modules) - of_torch if m.startswith('torch._dynamo.')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
