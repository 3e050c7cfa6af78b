"""The page in a real browser: the first workflow from opening it to the clip that it shows."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tests.comfyui.browser import visit, why_not
from tests.comfyui.installations import PACK

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def page(server):
    with visit(server) as page:
        yield page


def test_the_example_opens_runs_and_shows_a_clip(page):
    types = page.open_workflow(PACK / "example_workflows" / "first_animation.json")
    assert "UNetMotion_LoadBundled" in types
    registered = page.page.evaluate("Object.keys(LiteGraph.registered_node_types)")
    assert set(types) - set(registered) <= {"Note", "MarkdownNote", "Reroute"}
    page.press_run()
    entry = page.finished_clip()
    with Image.open(io.BytesIO(page.fetch("/view", **entry))) as picture:
        assert picture.n_frames == 16
    page.shows_output(entry["filename"])
    page.picture("first_animation")
    assert page.problems == []
