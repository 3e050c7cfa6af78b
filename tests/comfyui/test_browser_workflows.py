"""The page in a real browser: example workflows, the template browser, the search box, and widgets that are changed.

All tests of a ComfyUI share one visit, for a visit takes longer than most of them.
"""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.comfyui.browser import visit, why_not
from tests.comfyui.canvas import (
    COMPLAINTS,
    add_from_search_box,
    complaints,
    empty_canvas,
    write_number,
    write_text,
)
from tests.comfyui.clips import frames_of, middle_of
from tests.comfyui.graphs import NOTES
from tests.comfyui.installations import PACK

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))


@pytest.fixture(scope="module")
def page(server, model_files):
    with visit(server) as page:
        yield page


@pytest.fixture(autouse=True)
def uncovered(page):
    """What an earlier test left open would cover the canvas."""
    page.close_dialogs()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_example_workflow_opens_without_a_complaint(page, path):
    page.problems.clear()
    types = page.open_workflow(path)
    registered = page.page.evaluate("Object.keys(LiteGraph.registered_node_types)")
    assert set(types) - set(registered) <= set(NOTES)
    page.picture(f"workflow-{path.stem}")
    assert complaints(page) == [] and page.problems == []


def template_card(page, name):
    """The card of the workflow `name`. The browser makes further cards only when its list is scrolled to its end."""
    cards = page.page.locator("[data-testid^='template-workflow-']")
    card = page.page.get_by_test_id(f"template-workflow-{name}")
    cards.first.wait_for()
    while not card.count():
        shown = cards.count()
        cards.last.scroll_into_view_if_needed()
        page.page.mouse.wheel(0, 2000)
        page.page.wait_for_function(
            """shown => document.querySelectorAll("[data-testid^='template-workflow-']").length > shown""", arg=shown
        )
    return card


def test_the_template_browser_shows_each_workflow_with_its_picture_and_opens_it(page):
    page.problems.clear()
    page.page.get_by_role("button", name="Templates").first.click()
    page.page.get_by_text("ComfyUI-UNetMotion").first.click()
    for path in WORKFLOWS:
        card = template_card(page, path.stem)
        card.scroll_into_view_if_needed()
        with Image.open(path.with_suffix(".jpg")) as picture:
            size = [*picture.size]
        image = card.locator("img").first.element_handle()
        page.page.wait_for_function(
            "([image, [width, height]]) => image.naturalWidth === width && image.naturalHeight === height",
            arg=[image, size],
        )
    page.picture("templates")
    page.page.get_by_test_id("template-workflow-first_animation").click()
    nodes = len(json.loads((PACK / "example_workflows" / "first_animation.json").read_text())["nodes"])
    page.page.wait_for_function("count => window.app.graph._nodes.length === count", arg=nodes)
    assert page.problems == []


def test_every_node_comes_from_the_search_box_by_its_name(page):
    info = {name: node for name, node in json.loads(page.fetch("/object_info")).items() if name[:11] == "UNetMotion_"}
    assert len(info) > 10
    page.problems.clear()
    for index, (name, node) in enumerate(sorted(info.items())):
        column = index % 3  # some nodes are wide and tall, and a click has to meet the canvas
        if column == 0:
            empty_canvas(page, scale=0.58)
        assert add_from_search_box(page, node["display_name"], 160 + 400 * column, 130) == name
    page.picture("search_box")
    assert page.problems == []


def test_changed_widgets_give_the_clip_that_they_say(page):
    page.problems.clear()
    page.open_workflow(PACK / "example_workflows" / "first_animation.json")
    write_text(page, "a red star moving left", "a blue circle moving right")
    write_number(page, "KSampler", "seed", 5)
    write_number(page, "KSampler", "steps", 8)
    page.picture("widgets_changed")
    page.press_run()
    entry = page.finished_clip()
    page.shows_output(entry["filename"])
    page.picture("widgets_changed_and_run")
    (run,) = json.loads(page.fetch("/history")).values()
    (sampler,) = (node["inputs"] for node in run["prompt"][2].values() if node["class_type"] == "KSampler")
    assert (sampler["seed"], sampler["steps"]) == (5, 8)
    frames = frames_of(page.fetch("/view", **entry))
    assert middle_of(frames[-1], 2) - middle_of(frames[0], 2) > 40
    assert page.problems == []


def test_a_workflow_with_an_unknown_node_would_be_seen_as_a_complaint(page, tmp_path):
    workflow = json.loads((PACK / "example_workflows" / "first_animation.json").read_text())
    (loader,) = (node for node in workflow["nodes"] if node["type"] == "UNetMotion_LoadBundled")
    loader["type"] = "UNetMotion_DoesNotExist"
    path = tmp_path / "unknown.json"
    path.write_text(json.dumps(workflow))
    page.open_workflow(path)
    page.page.locator(COMPLAINTS).first.wait_for()
    assert complaints(page) != []
