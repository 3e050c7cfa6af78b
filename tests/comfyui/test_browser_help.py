"""Help pages as a person opens them, in English and in Chinese, and the Chinese names on canvas and settings page."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.comfyui.browser import visit, why_not
from tests.comfyui.installations import ROOT

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

CHINESE, MAIN, SETTINGS = (
    json.loads((ROOT / "locales" / "zh" / f"{name}.json").read_text()) for name in ("nodeDefs", "main", "settings")
)
NODE = "UNetMotion_FreeU"
ADD = """
type => {
    app.graph.clear()
    app.canvas.ds.reset()
    const node = LiteGraph.createNode(type)
    node.pos = [420, 240]
    app.graph.add(node)
    app.canvas.draw(true, true)
    const area = app.canvas.canvas.getBoundingClientRect()
    const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 80, node.pos[1] - 15])
    return [area.x + x, area.y + y]
}
"""
# What stands below the heading of the open help page, once it and all its pictures are there.
SHOWN = """
title => {
    const heading = [...document.querySelectorAll('h1')].find(found => found.textContent.trim() === title)
    const pictures = [...heading?.parentElement.querySelectorAll('img') ?? []]
    return pictures.length && pictures.every(picture => picture.complete) && {
        text: heading.parentElement.textContent,
        pictures: pictures.map(picture => [new URL(picture.src).pathname, picture.naturalWidth, picture.clientWidth]),
        room: heading.parentElement.clientWidth,
    }
}
"""
NAMES = """
() => {
    const [node] = app.graph._nodes
    const name = part => part.localized_name ?? part.label ?? part.name
    return {
        title: node.title, inputs: node.inputs.map(name), outputs: node.outputs.map(name),
        widgets: Object.fromEntries(node.widgets.map(widget => [widget.name, widget.label ?? widget.name])),
    }
}
"""


def open_help(page, node, title):
    """Select a node by a click on its title, press the info button, and wait for the page of this title."""
    from playwright.sync_api import TimeoutError

    title_bar, button = page.page.evaluate(ADD, node), page.page.locator("[data-testid=info-button]").first
    # A canvas that is still being laid out takes no clicks.
    for _ in range(20):
        page.page.mouse.click(*title_bar)
        with contextlib.suppress(TimeoutError):
            button.wait_for(timeout=500)
            break
    button.click()
    return page.page.wait_for_function(SHOWN, arg=title, timeout=30_000).json_value()


def settings_of_the_pack(page, category):
    """The names on the settings page, opened with the command of its menu entry, below the pack's own heading."""
    page.page.evaluate("() => void app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.page.get_by_text(category, exact=True).first.click()
    page.page.get_by_text(SETTINGS["UNetMotion_Preview_Motion"]["name"]).first.wait_for()
    return {text.strip() for text in page.page.locator(".setting-item").all_inner_texts()}


def problems_of(page):
    """Without the note that there is no en.md: the page asks for it before it takes the one of any language."""
    return [text for text in page.problems if not text.endswith("/en.md")]


@pytest.fixture
def english_after(server):
    yield
    server.post("/settings/Comfy.Locale", "en")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_info_button_opens_our_page_with_its_pictures(server, english_after, language):
    title = {"en": "FreeU (motion)", "zh": CHINESE[NODE]["display_name"]}[language]
    with visit(server, {"Comfy.Locale": language}) as page:
        shown = open_help(page, NODE, title)
        page.picture(f"help-{language}")
        own = f"{NODE}.webp" if language == "en" else f"{NODE}.{language}.webp"
        assert [path.rsplit("/", 1)[1] for path, *_ in shown["pictures"]] == [own, f"{NODE}.effect.webp"]
        for path, width, room in shown["pictures"]:
            assert width > 200 and 0 < room <= shown["room"], path
        assert {"en": "Clearer shapes", "zh": "更清晰的形状"}[language] in shown["text"]
        names = page.page.evaluate(NAMES)
        assert names["title"] == title
        if language == "zh":
            inputs = CHINESE[NODE]["inputs"]
            sockets = ("model", "curve")
            assert names["inputs"][0] == inputs["model"]["name"]
            assert inputs["curve"]["name"] in names["inputs"]
            assert names["outputs"] == [CHINESE[NODE]["outputs"]["0"]["name"]]
            assert names["widgets"] == {name: entry["name"] for name, entry in inputs.items() if name not in sockets}
            shown = settings_of_the_pack(page, MAIN["settingsCategories"]["UNetMotion"])
            page.picture("settings-zh")
            assert {entry["name"] for entry in SETTINGS.values()} <= shown
        assert problems_of(page) == []
