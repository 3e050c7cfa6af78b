"""The page in a real browser: the first workflow to its clip, the clip while it is sampled, files on loaders."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.big_files import write_lora
from tests.comfyui.browser import visit, why_not
from tests.comfyui.installations import PACK
from tests.comfyui.server import Server

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

FIRST = PACK / "example_workflows" / "first_animation.json"
MOTION = "UNetMotion.Preview.Motion"
# Where each renderer shows the clip so far.
LOOPS = {"classic": "img.unet-motion-preview", "vue": "[data-node-id] img"}
STEPS = 3000
"""So many that the run, which is interrupted, does not end before the preview was looked at, however slow the page."""
SET_WIDGETS = """([type, values]) => {
  const node = window.app.graph._nodes.find((node) => node.type === type);
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find((widget) => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
  }
}"""
COUNT_PREVIEWS = """() => {
  window.previewsSeen = 0;
  window.comfyAPI.api.api.addEventListener("b_preview_with_metadata", () => window.previewsSeen++);
}"""


@pytest.fixture
def page(server):
    with visit(server) as page:
        yield page


def renderers(server: Server) -> dict[str, dict]:
    """The page's settings for each of its ways to draw nodes; older pages have the classic one."""
    classic = {"classic": {"Comfy.VueNodes.Enabled": False}}
    return classic | ({"vue": {"Comfy.VueNodes.Enabled": True}} if newer(server) else {})


def newer(server: Server) -> bool:
    return server.installation.version != "0.3.64"


def test_the_example_opens_runs_and_shows_a_clip(page):
    types = page.open_workflow(FIRST)
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


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_the_clip_moves_on_its_node_while_it_is_sampled(server, renderer):
    if renderer not in renderers(server):
        pytest.skip("this page has the classic renderer only")
    server.free()
    try:
        with visit(server, {**renderers(server)[renderer], MOTION: True}) as page:
            _watch(page, LOOPS[renderer], f"preview-{renderer}")
            if renderer == "classic":
                # Core's still picture does not stand beside the moving one, and the loop is no part of the workflow.
                assert page.page.evaluate("window.app.graph._nodes.every(node => !node.imgs?.length)")
                saved = page.page.evaluate("window.app.graph.serialize().nodes.find(n => n.type === 'KSampler')")
                # The first template draws another clip each time: behind the run the page has set the next seed.
                seed, *others = saved["widgets_values"]
                assert isinstance(seed, int) and seed != 3 and others == ["randomize", STEPS, 3, "euler", "normal", 1]
            page.page.evaluate("window.comfyAPI.api.api.interrupt()")
            assert page.problems == []
    finally:
        server.post(f"/settings/{MOTION}", True)


def _watch(page, shown: str, name: str) -> None:
    """Run the first workflow until its sampler shows a loop, and see that it moves by itself."""
    page.open_workflow(FIRST)
    page.page.evaluate(COUNT_PREVIEWS)
    page.page.evaluate(SET_WIDGETS, ["KSampler", {"steps": STEPS, "seed": 3}])
    page.press_run()
    loop = page.page.locator(shown).first
    loop.wait_for(state="visible", timeout=180_000)
    page.page.wait_for_function("window.previewsSeen >= 3", timeout=180_000)
    # Switched off in the middle, no new clip comes, and the one that is there goes on.
    page.page.evaluate("id => window.app.extensionManager.setting.set(id, false)", MOTION)
    _until_still(page)
    source, before = loop.get_attribute("src"), _picture_of(loop)
    page.picture(name)
    changes = [float(np.abs(_picture_of(loop) - before).mean()) for _ in range(6)]
    assert loop.get_attribute("src") == source
    assert max(changes) > 1, changes
    assert loop.evaluate("image => image.naturalWidth") == 8


def _until_still(page) -> None:
    """Wait until no preview has come for six seconds: on a busy machine one that is on its way takes some."""
    seen, since, end = -1, 0.0, time.monotonic() + 120
    while time.monotonic() - since < 6:
        assert time.monotonic() < end, "previews go on after they were switched off"
        now = page.page.evaluate("window.previewsSeen")
        seen, since = now, (time.monotonic() if now != seen else since)
        time.sleep(0.2)


def _picture_of(loop) -> np.ndarray:
    with Image.open(io.BytesIO(loop.screenshot())) as picture:
        return np.asarray(picture.convert("RGB"), float)


def test_a_setting_turns_the_moving_preview_off(server):
    server.free()
    with visit(server, {MOTION: False}) as page:
        page.open_workflow(FIRST)
        page.page.evaluate(COUNT_PREVIEWS)
        page.page.evaluate(SET_WIDGETS, ["KSampler", {"steps": 12, "seed": 4}])
        page.press_run()
        page.finished_clip()
        assert page.page.evaluate("window.previewsSeen") == 0
        assert page.page.locator(LOOPS["classic"]).count() == 0
        assert page.problems == []
    server.post(f"/settings/{MOTION}", True)


def test_the_pages_settings_have_entries_of_ours(page):
    page.page.evaluate("window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.page.get_by_text("UNetMotion", exact=True).first.click()
    for name in ("Show the whole clip while it is sampled", "Frames per second of the preview"):
        page.page.get_by_text(name).first.wait_for(state="visible")
    page.page.get_by_text("Show on loaders what the chosen file is").first.wait_for(state="visible")
    page.picture("settings")
    assert page.problems == []


@pytest.fixture
def lora_among_motion_modules(elsewhere):
    """A file in the wrong folder."""
    path = write_lora(elsewhere / "animatediff_models" / "a lora.safetensors")
    yield path.name
    path.unlink()


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_a_loader_shows_what_the_chosen_file_is_and_marks_a_wrong_one(
    server, renderer, small_motion, lora_among_motion_modules
):
    if renderer not in renderers(server):
        pytest.skip("this page has the classic renderer only")
    kind = "UNetMotion_LoadMotionModule"
    with visit(server, renderers(server)[renderer]) as page:
        page.page.evaluate("window.app.graph.clear()")
        page.page.evaluate(
            "type => { const node = LiteGraph.createNode(type); node.pos = [200, 200]; window.app.graph.add(node); }",
            kind,
        )
        line = page.page.locator(".unet-motion-file-info").first
        page.page.evaluate(SET_WIDGETS, [kind, {"motion_module": small_motion}])
        line.get_by_text("up to 32 frames").wait_for(state="visible", timeout=30_000)
        assert line.inner_text().startswith("diffusers MotionAdapter · up to 32 frames · group norms over: ")
        assert page.page.locator(".unet-motion-wrong").count() == 0
        page.picture(f"file-{renderer}")
        page.page.evaluate(SET_WIDGETS, [kind, {"motion_module": lora_among_motion_modules}])
        wrong = page.page.locator(".unet-motion-wrong").first
        wrong.wait_for(state="visible", timeout=30_000)
        assert wrong.inner_text() == "✗ a LoRA: expected a motion module"
        page.picture(f"wrong-file-{renderer}")
        # The line is no part of the workflow, nor of what is sent to the server.
        saved = page.page.evaluate("window.app.graph.serialize().nodes[0].widgets_values")
        assert saved == [lora_among_motion_modules, 0, 0, 0, 0, 0, 1, 0, ""]
        sent = page.page.evaluate("window.app.graphToPrompt().then(({output}) => Object.values(output)[0].inputs)")
        assert "unet_motion_file_info" not in sent and sent["motion_module"] == lora_among_motion_modules
        assert page.problems == []
