"""ComfyUI's page in a real Chromium, as a person uses it.

Needs the package `playwright` and a Chromium of the system (a browser of Playwright's own is not downloaded). Pictures
of the page go to the folder that UNET_MOTION_SCREENSHOTS names, else to `output/screenshots`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.comfyui.installations import ROOT

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SCREENSHOTS = Path(os.environ.get("UNET_MOTION_SCREENSHOTS", ROOT / "output" / "screenshots"))
# A new empty profile and no talk with anything but the server under test.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
RUN_SECONDS = 180
# Without the first, a first visit would open the list of templates over the canvas.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False, "Comfy.Locale": "en"}
PATIENCE = 90_000  # milliseconds for whatever the page has to do, on a machine that does other things too
# What the page of a ComfyUI logs as an error by itself: optional files that are not there, and hosts outside.
OWN_ERRORS = ("user.css", "favicon", "net::ERR_", "status of 404", "Content Security Policy")


def why_not() -> str | None:
    """Why no browser can be driven here, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "no package playwright"
    return "no Chromium found on the PATH" if CHROMIUM is None else None


class Page:
    """A visit to a server's page.

    Attributes:
        page: Playwright's page, for what has no method here.
        problems: errors that the page logged or threw since the visit began.
    """

    def __init__(self, server: Any, browser: Any, **context: Any):
        self.server, self.problems = server, []
        self.page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **context})
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.problems.append(f"{error}\n{error.stack}"))
        self.page.on("console", self._note)
        self.page.goto(f"http://{server.address}")
        self.page.wait_for_function(
            "window.app?.graph && window.app?.extensionManager && document.querySelector('canvas')"
        )
        # ComfyUI 0.3.64's own page has an error of its own while it starts.
        self.problems = [text for text in self.problems if "UNetMotion" in text]

    def _note(self, message: Any) -> None:
        url = message.location.get("url", "")
        if url.startswith("https://"):
            return  # hosts outside, which ComfyUI's page asks about nodes
        text = f"{message.text} {url}"
        wrong = message.type == "error" or "[DEPRECATION WARNING]" in message.text and "UNetMotion" in text
        if wrong and ("UNetMotion" in text or not any(own in text for own in OWN_ERRORS)):
            self.problems.append(text)

    def picture(self, name: str) -> bytes:
        """A PNG of the whole page, kept as `<version>-<name>.png` for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        return self.page.screenshot(path=SCREENSHOTS / f"{self.server.installation.version}-{name}.png")

    def open_workflow(self, path: Path) -> list[str]:
        """Open a saved workflow as the file menu does; the types of the nodes that are then there."""
        nodes = len(json.loads(path.read_text())["nodes"])
        self.page.evaluate("window.app.graph.clear()")
        self.page.set_input_files("#comfy-file-input", path)
        self.page.wait_for_function("count => window.app.graph._nodes.length === count", arg=nodes, timeout=180_000)
        return self.page.evaluate("window.app.graph._nodes.map(node => node.type)")

    def close_dialogs(self) -> None:
        """Close what lies over the canvas: dialogs, lists of templates, search boxes."""
        for _ in range(5):
            if not self.page.locator("[role=dialog]:visible").count():
                return
            self.page.keyboard.press("Escape")
            self.page.wait_for_timeout(500)

    def press_run(self) -> None:
        button = self.page.locator("[data-testid=queue-button]")
        if button.count() == 0:
            # Older pages have no test id on it.
            button = self.page.get_by_role("button", name="Run", exact=True)
        button.first.click()

    def fetch(self, path: str, **query: str) -> bytes:
        """What the server answers, asked by the browser: its event loop leaves no room for the server client's own."""
        return self.page.request.get(f"http://{self.server.address}{path}", params=query).body()

    def finished_clip(self) -> dict:
        """The entry of the animated file of the last prompt, when it is done."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            for entry in json.loads(self.fetch("/history")).values():
                for output in entry["outputs"].values():
                    if any(output.get("animated", ())) and entry["status"]["completed"]:
                        return output["images"][0]
            time.sleep(0.5)
        raise AssertionError(f"no clip was made:\n{self.server.log()[-3000:]}")

    def shows_output(self, name: str) -> None:
        """Wait until a node of the page has a file among its results."""
        self.page.wait_for_function(
            "name => Object.values(window.app.nodeOutputs ?? {}).some(o => o?.images?.some(i => i.filename === name))",
            arg=name,
            timeout=180_000,
        )


@contextlib.contextmanager
def visit(server: Any, settings: dict[str, Any] | None = None, **context: Any) -> Iterator[Page]:
    """The page of a server with an empty history.

    Args:
        settings: of the page, by id.
        context: Playwright's options of a new page, such as `locale`.
    """
    from playwright.sync_api import sync_playwright

    # The page keeps what it changes by itself, such as open panels: every visit starts as the first one.
    (server.base / "user" / "default" / "comfy.settings.json").unlink(missing_ok=True)
    for name, value in {**SETTINGS, **(settings or {})}.items():
        server.post(f"/settings/{name}", value)
    server.post("/history", {"clear": True})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield Page(server, browser, **context)
        finally:
            browser.close()
