"""The picture on Context Windows: what the server draws for settings, and what the page shows on the node."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import numpy as np
import pytest
from PIL import Image

from tests.comfyui.browser import visit, why_not
from tests.comfyui.installations import PACK
from tests.comfyui.test_browser import renderers
from unet_motion import ContextWindows
from unet_motion.sampling.window_picture import draw_windows


def ask(server, **query) -> tuple[int, bytes]:
    async def request():
        url = f"http://{server.address}/unet_motion/windows"
        async with aiohttp.ClientSession() as session, session.get(url, params=query) as answer:
            return answer.status, await answer.read()

    return asyncio.run(request())


def drawn(windows, frames, steps):
    return draw_windows([windows.plan(frames, step) for step in range(steps)], frames, 260, 130)


@pytest.mark.parametrize(
    ("query", "windows", "frames", "steps"),
    [
        ({}, ContextWindows(), 48, 6),
        (
            {"length": 8, "overlap": 2, "stride": 2, "schedule": "looped_uniform", "closed_loop": "true",
             "loop_frames": 3, "fuse": "flat"},
            ContextWindows(8, 2, 2, "looped_uniform", True, 3, "flat"), 40, 6,
        ),
        ({"loop_frames": 0, "use_on_equal_length": "false"}, ContextWindows(), 1024, 4),
    ],
)  # fmt: skip
def test_the_server_draws_the_windows_of_the_first_steps(server, query, windows, frames, steps):
    status, png = ask(server, frames=frames, **query)
    assert status == 200
    with Image.open(io.BytesIO(png)) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), drawn(windows, frames, steps))


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"overlap": 16}, "`overlap` is 16, expected less than `length`, which is 16."),
        ({"frames": 0}, "`frames` is 0, expected 1 to 4096."),
        ({"frames": 5000}, "`frames` is 5000, expected 0 to 4096."),
        ({"length": "many"}, "`length` is 'many', expected a whole number."),
        ({"closed_loop": "yes"}, "`closed_loop` is 'yes', expected true or false."),
        ({"colour": "red"}, "found the setting 'colour', expected one of length, overlap"),
        ({"length": 1, "overlap": 0, "frames": 4096}, "about 4096 windows in each step are too many for a picture"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(server, query, sentence):
    status, said = ask(server, **{"frames": 48, **query})
    assert status == 400 and sentence in said.decode()


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


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
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
        assert page.problems == [] or all("400" in problem for problem in page.problems)
