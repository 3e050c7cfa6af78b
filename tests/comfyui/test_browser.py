"""The example workflow in a real browser: open it, press Run, see the clip.

Needs the package `playwright` and a Chromium of the system (a browser of Playwright's own is not downloaded).
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import time

import pytest
from PIL import Image

from tests.comfyui.installations import PACK

WORKFLOW = PACK / "example_workflows" / "first_animation.json"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
# A new empty profile and no talk with anything but the server under test.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no package playwright"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found on the PATH"),
]


@pytest.fixture
def page(server):
    from playwright.sync_api import sync_playwright

    # The first visit would open the list of templates over the canvas.
    server.post("/settings/Comfy.TutorialCompleted", True)
    server.post("/history", {"clear": True})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(f"{error}\n{error.stack}"))
        page.on("console", lambda message: _note(page, message))
        page.goto(f"http://{server.address}")
        page.wait_for_function("window.app?.graph && window.app?.extensionManager && document.querySelector('canvas')")
        # ComfyUI 0.3.64's own page has an error of its own while it starts.
        page.problems = [text for text in page.problems if "UNetMotion" in text]
        yield page
        browser.close()


def _note(page, message) -> None:
    # The page asks for optional files of its own (such as user.css) and logs their absence.
    if message.type == "error" and "UNetMotion" in message.text + str(message.location):
        page.problems.append(message.text)


def open_workflow(page) -> list[str]:
    """Drop the example on the page as the file menu does; returns the types of the nodes that are then there."""
    nodes = len(json.loads(WORKFLOW.read_text())["nodes"])
    page.set_input_files("#comfy-file-input", WORKFLOW)
    page.wait_for_function("count => window.app.graph._nodes.length === count", arg=nodes, timeout=60_000)
    return page.evaluate("window.app.graph._nodes.map(node => node.type)")


def press_run(page) -> None:
    button = page.locator("[data-testid=queue-button]")
    if button.count() == 0:
        # Older pages have no test id on it.
        button = page.get_by_role("button", name="Run", exact=True)
    button.first.click()


def finished_clip(server, page) -> dict:
    """The entry of the animated file of the last prompt, when it is done."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        # Through the browser: its event loop leaves no room for the server client's own.
        for entry in page.request.get(f"http://{server.address}/history").json().values():
            for output in entry["outputs"].values():
                if any(output.get("animated", ())) and entry["status"]["completed"]:
                    return output["images"][0]
        time.sleep(0.5)
    raise AssertionError(f"no clip was made:\n{server.log()[-3000:]}")


def test_the_example_opens_runs_and_shows_a_clip(server, page):
    types = open_workflow(page)
    assert "UNetMotion_LoadBundled" in types
    registered = page.evaluate("Object.keys(LiteGraph.registered_node_types)")
    assert set(types) - set(registered) <= {"Note", "MarkdownNote", "Reroute"}
    press_run(page)
    entry = finished_clip(server, page)
    file = page.request.get(f"http://{server.address}/view", params=entry).body()
    with Image.open(io.BytesIO(file)) as picture:
        assert picture.n_frames == 16
    page.wait_for_function(
        "name => Object.values(window.app.nodeOutputs ?? {}).some(o => o?.images?.some(i => i.filename === name))",
        arg=entry["filename"],
        timeout=60_000,
    )
    assert page.problems == []
