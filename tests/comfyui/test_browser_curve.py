"""Motion Curve's drawing in a real browser: its keys are edited there, and the text is the state."""

from __future__ import annotations

import pytest

from tests.comfyui.browser import visit, why_not
from tests.comfyui.test_browser import renderers
from unet_motion.schedule import Curve

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

ADD = """(text) => {
  const node = LiteGraph.createNode("UNetMotion_Curve");
  node.pos = [300, 200];
  app.graph.add(node);
  const widget = node.widgets.find(({name}) => name === "text");
  widget.value = text;
  widget.callback?.(text);
}"""
TEXT = "() => app.graph._nodes[0].widgets.find(({name}) => name === 'text').value"
VALUES = """async ([texts, folder, frames]) => {
  const {placeOf, readKeys, valueAt} = await import(`/extensions/${folder}/curve_editor.mjs`);
  return texts.map((text) => {
    const keys = readKeys(text);
    keys.forEach((key) => (key.place = placeOf(key.at, frames - 1, "frames")));
    return Array.from({length: frames}, (_, frame) => valueAt(keys, frame));
  });
}"""
TEXTS = ["0:1, -1:0", "0:0 smooth, 8:1 hold, 12:0.5, 15:2", "0:0 monotone, 3:1 monotone, 9:7 monotone, 15:6", "50%:2",
         "0:0, 4:1, 4:5, 100%:5", "0.7"]  # fmt: skip


def places(page, dots):
    """Where frames and values are on the screen, of keys from (0, 1) to (15, 0), once the node is laid out."""
    before = None
    for _ in range(50):
        if before == (boxes := [dots.nth(i).bounding_box() for i in (0, dots.count() - 1)]):
            break
        before = boxes
        page.page.wait_for_timeout(300)
    (left, top), (right, bottom) = ((b["x"] + b["width"] / 2, b["y"] + b["height"] / 2) for b in boxes)
    assert right - left > 50 and bottom - top > 20
    return lambda frame: left + (right - left) * frame / 15, lambda value: bottom + (top - bottom) * value


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_keys_are_moved_added_removed_and_undone(server, renderer):
    if renderer not in renderers(server):
        pytest.skip("this page has the classic renderer only")
    with visit(server, renderers(server)[renderer]) as page:
        page.page.evaluate("app.graph.clear()")
        page.page.evaluate(ADD, "0:1, -1:0")
        dots = page.page.locator(".unet-motion-curve circle")
        dots.nth(1).wait_for()
        assert dots.count() == 2
        found = page.page.evaluate(VALUES, [TEXTS, server.folder, 16])
        for text, values in zip(TEXTS, found, strict=True):
            assert values == pytest.approx(Curve.parse("c", text).values(16).tolist(), abs=1e-9), text
        x, y = places(page, dots)
        page.page.mouse.dblclick(x(5), y(0.5))
        page.page.wait_for_function(f"({TEXT})() === '0:1, 5:0.5, -1:0'")
        x, y = places(page, dots)
        page.page.mouse.move(x(5), y(0.5))
        page.page.mouse.down()
        page.page.mouse.move(x(9), y(0.75), steps=4)
        page.page.mouse.up()
        page.page.wait_for_function(f"({TEXT})() === '0:1, 9:0.75, -1:0'")
        dots.nth(1).press("w")
        dots.nth(1).press("ArrowLeft")
        dots.nth(1).press("ArrowDown")
        assert page.page.evaluate(TEXT) == "0:1, 8:0.7 hold, -1:0"
        page.picture(f"curve-{renderer}")
        dots.nth(0).press("Delete")
        assert page.page.evaluate(TEXT) == "8:0.7 hold, -1:0"
        page.page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
        page.page.wait_for_function(f"({TEXT})() === '0:1, 8:0.7 hold, -1:0'")
        dots.nth(2).wait_for()
        assert dots.count() == 3
        page.page.evaluate(f"(text) => {{ const w = {TEXT[6:-6]}; w.value = text; w.callback?.(text); }}", "[1, 2]")
        page.page.locator(".unet-motion-curve text").wait_for()
        assert dots.count() == 0 and page.page.evaluate(TEXT) == "[1, 2]"
        assert page.problems == []
