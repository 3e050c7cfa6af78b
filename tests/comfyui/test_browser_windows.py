"""The picture on Context Windows in a real browser: it follows the node's settings and says what is wrong with them."""

from __future__ import annotations

import pytest

from tests.comfyui.browser import visit, why_not
from tests.comfyui.installations import PACK
from tests.comfyui.test_browser import renderers
from tests.comfyui.test_window_picture import drawn
from unet_motion import ContextWindows

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

WIDGET = """([name, value]) => {
  const node = window.app.graph._nodes.find(({type}) => type === "UNetMotion_ContextWindows");
  const widget = node.widgets.find((entry) => entry.name === name);
  widget.value = value;
  widget.callback?.(value);
}"""
FRAMES = """(value) => {
  const node = window.app.graph._nodes.find(({type}) => type === "EmptyLatentImage");
  node.widgets.find(({name}) => name === "batch_size").value = value;
}"""


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_the_node_shows_its_windows_and_what_is_wrong_with_them(server, renderer):
    if renderer not in renderers(server):
        pytest.skip("this page has the classic renderer only")
    with visit(server, renderers(server)[renderer]) as page:
        page.open_workflow(PACK / "example_workflows" / "closed_loop.json")
        box = page.page.locator(".unet-motion-windows")
        words, picture = box.locator("[role=status]"), box.locator("img")
        count = page.page.evaluate(
            "app.graph._nodes.find(({type}) => type === 'EmptyLatentImage').widgets.at(-1).value"
        )
        words.get_by_text(f"{count} frames, steps downwards", exact=True).wait_for()
        width = picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }")
        assert width == drawn(ContextWindows(), count, 1).shape[1]
        assert picture.bounding_box()["height"] > 40
        page.page.evaluate(WIDGET, ["overlap", 16])
        words.get_by_text("`overlap` is 16, expected less than `length`, which is 16.").wait_for()
        assert not picture.is_visible()
        page.page.evaluate(WIDGET, ["overlap", 2])
        page.page.evaluate(FRAMES, 64)
        box.dispatch_event("pointerenter")
        words.get_by_text("64 frames, steps downwards", exact=True).wait_for()
        assert picture.is_visible()
        page.picture(f"windows-{renderer}")
        assert page.problems == []
