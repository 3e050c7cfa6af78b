"""The Timeline node's drawing in a real browser: keys and prompts are edited there, and its JSON is the whole state."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import load as load_safetensors

from tests.comfyui.browser import visit, why_not
from tests.comfyui.graphs import SAMPLING, Graph
from tests.comfyui.test_browser import SET_WIDGETS, renderers
from unet_motion.schedule import PromptSchedule, Timeline

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

FRAMES = 8
START = {
    "prompts": {"keys": [{"at": 0, "text": "a red star"}, {"at": -1, "text": "a blue star"}]},
    "curves": {"cfg": {"over": "steps", "keys": [[0, 4], [1, 2]]}},
}
# Loader, timeline, latents, sampler, and what saves the latents; the timeline lies in the middle of the page.
BUILD = """([frames, timeline, sampling]) => {
  app.graph.clear();
  const make = (type, x, y) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    app.graph.add(node);
    return node;
  };
  const set = (node, values) => {
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((widget) => widget.name === name);
      widget.value = value;
      widget.callback?.(value);
    }
  };
  const loader = make("UNetMotion_LoadBundled", -500, 0), line = make("UNetMotion_Timeline", 0, 100);
  const empty = make("EmptyLatentImage", -500, 200), sampler = make("KSampler", 900, 100);
  const save = make("SaveLatent", 1300, 100);
  const links = [[loader, 0, line, "model"], [loader, 1, line, "clip"], [line, 0, sampler, "model"],
    [line, 1, sampler, "positive"], [line, 2, sampler, "negative"], [empty, 0, sampler, "latent_image"],
    [sampler, 0, save, "samples"]];
  for (const [from, slot, to, name] of links) from.connect(slot, to, to.findInputSlot(name));
  set(empty, {width: 64, height: 64, batch_size: frames});
  set(line, {frames, timeline: JSON.stringify(timeline)});
  set(sampler, {...sampling, control_after_generate: "fixed"});
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [200, 100];
  app.canvas.setDirty(true, true);
}"""
STATE = """() => JSON.parse(app.graph._nodes.findLast((node) => node.type === "UNetMotion_Timeline")
  .widgets.find(({name}) => name === "timeline").value)"""
UNDO = "app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
COPY = """() => {
  const node = app.graph._nodes.find((node) => node.type === "UNetMotion_Timeline");
  app.canvas.selectItems([node]);
  app.canvas.copyToClipboard();
  app.canvas.pasteFromClipboard();
  return app.graph._nodes.filter((node) => node.type === "UNetMotion_Timeline")
    .map((node) => node.widgets.find(({name}) => name === "timeline").value);
}"""
REMOVE_COPY = """() => app.graph.remove(app.graph._nodes.findLast((node) => node.type === "UNetMotion_Timeline"))"""


class Drawing:
    """The timeline on a page."""

    def __init__(self, page):
        self.page = page.page
        self.box = self.page.locator(".unet-motion-timeline")

    def keys(self, track):
        return self.box.locator(f"[data-track={track}]")

    def middle(self, track, i):
        """Where a key is on the screen, once the page has laid out the node."""
        before = None
        for _ in range(50):
            if before == (box := self.keys(track).nth(i).bounding_box()):
                break
            before = box
            self.page.wait_for_timeout(200)
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, track, i, right, up=0.0):
        x, y = self.middle(track, i)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + right, y - up, steps=4)
        self.page.mouse.up()

    def state(self):
        return self.page.evaluate(STATE)

    def places(self, track):
        keys = self.state()["prompts"] if track == "prompts" else self.state()["curves"][track]
        return [key["at"] for key in keys["keys"]]

    def wait(self, track, places):
        end = time.monotonic() + 20
        while self.places(track) != places and time.monotonic() < end:
            self.page.wait_for_timeout(100)
        assert self.places(track) == places


def _edit(drawing):
    """Everything a person does, with the mouse and with the keyboard; what the state then says."""
    left, right = (drawing.middle("prompts", i) for i in (0, 1))
    frame = (right[0] - left[0]) / (FRAMES - 1)
    assert frame > 15
    # A bar is split where it is clicked twice; its key is dragged, and not past its neighbour.
    drawing.page.mouse.dblclick(left[0] + 3 * frame, left[1])
    drawing.wait("prompts", [0, 3, -1])
    drawing.drag("prompts", 1, 2 * frame)
    drawing.wait("prompts", [0, 5, -1])
    drawing.drag("prompts", 1, 20 * frame)
    drawing.wait("prompts", [0, 6, -1])
    drawing.page.evaluate(UNDO)
    drawing.wait("prompts", [0, 5, -1])
    drawing.keys("prompts").nth(1).press("ArrowLeft")
    drawing.keys("prompts").nth(1).press("w")
    drawing.keys("prompts").nth(1).press("Enter")
    drawing.page.keyboard.type("ish")
    drawing.page.keyboard.press("Tab")
    key = drawing.state()["prompts"]["keys"][1]
    assert (key["at"], key["way"]) == (4, "smooth") and key["text"] in ("a red starish", "isha red star")
    field = drawing.box.get_by_label("Prompt of the chosen bar")
    field.fill("a yellow star")
    field.press("Tab")
    drawing.box.get_by_label("Text behind each prompt").fill("moving left")
    drawing.page.keyboard.press("Tab")
    # A curve with a key at each end, the second one lower.
    drawing.box.get_by_label("Add the curve effect").click()
    drawing.keys("effect").first.press("Insert")
    drawing.wait("effect", [0, 4])
    drawing.drag("effect", 1, 3 * frame, up=-21)
    drawing.wait("effect", [0, 7])
    drawing.keys("cfg").nth(0).press("Delete")
    drawing.wait("cfg", [1])


def _zoom(drawing):
    """The same frames take more room, and the wheel moves what is shown."""

    def width():
        return drawing.middle("prompts", 1)[0] - drawing.middle("prompts", 0)[0]

    before, state = width(), drawing.state()
    drawing.keys("prompts").first.press("+")
    assert width() == pytest.approx(2 * before, rel=0.02)
    drawing.page.mouse.move(*drawing.middle("prompts", 0))
    drawing.page.mouse.wheel(0, 100)
    assert before < width() < 1.7 * before
    drawing.keys("prompts").first.press("0")
    assert width() == pytest.approx(before, rel=0.01) and drawing.state() == state


def _latents(page):
    """The bits of the latents of the prompt that the page runs."""
    page.press_run()
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for entry in json.loads(page.fetch("/history")).values():
            assert entry["status"]["status_str"] != "error", entry["status"]
            for output in entry["outputs"].values():
                if entry["status"]["completed"] and "latents" in output:
                    return page.fetch("/view", **output["latents"][0])
        time.sleep(0.3)
    raise AssertionError("nothing was sampled")


def _through_api(server, timeline):
    graph = Graph()
    loader = graph.add("UNetMotion_LoadBundled")
    line = graph.add("UNetMotion_Timeline", model=(loader, 0), clip=(loader, 1), timeline=timeline, frames=FRAMES)
    needs = {name: (line, i) for i, name in enumerate(("model", "positive", "negative"))}
    sampler = graph.add("KSampler", **SAMPLING, **needs, latent_image=graph.frames(FRAMES))
    graph.add("SaveLatent", "save", samples=(sampler, 0), filename_prefix="latents/timeline")
    server.free()
    return server.latent(server.run(graph), "save")


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_a_timeline_is_edited_undone_copied_saved_reopened_and_run(server, renderer, tmp_path):
    if renderer not in renderers(server):
        pytest.skip("this page has the classic renderer only")
    with visit(server, renderers(server)[renderer]) as page:
        page.page.evaluate(BUILD, [FRAMES, START, SAMPLING])
        drawing = Drawing(page)
        drawing.keys("cfg").nth(1).wait_for()
        _edit(drawing)
        _zoom(drawing)
        page.picture(f"timeline-{renderer}")
        state = drawing.state()
        prompts, effect = state["prompts"], state["curves"]["effect"]["keys"]
        assert prompts["after"] == "moving left" and prompts["keys"][1]["text"] == "a yellow star"
        assert effect[0]["value"] == 1 and effect[1]["value"] == pytest.approx(0.5, abs=0.1)
        copies = page.page.evaluate(COPY)
        assert len(copies) == 2 and [json.loads(text) for text in copies] == [state, state]
        page.page.evaluate(REMOVE_COPY)
        saved = page.page.evaluate("app.graph.serialize().nodes.find(({type}) => type === 'UNetMotion_Timeline')")
        text, frames = saved["widgets_values"]
        assert json.loads(text) == state and frames == FRAMES
        assert Timeline.parse("timeline", text).to_json() == state
        shown = {track: drawing.keys(track).count() for track in ("prompts", "effect", "cfg")}
        file = tmp_path / "timeline.json"
        file.write_text(json.dumps(page.page.evaluate("app.graph.serialize()")))
        page.page.evaluate("app.graph.clear()")
        page.open_workflow(file)
        page.page.evaluate("app.canvas.ds.offset = [200, 100], app.canvas.setDirty(true, true)")
        drawing.keys("effect").nth(1).wait_for(state="attached")
        assert drawing.state() == state and {track: drawing.keys(track).count() for track in shown} == shown
        again = page.page.evaluate("app.graph.serialize().nodes.find(({type}) => type === 'UNetMotion_Timeline')")
        posted = page.page.evaluate("app.graphToPrompt().then(({output}) => Object.values(output))")
        (node,) = (node for node in posted if node["class_type"] == "UNetMotion_Timeline")
        assert again["widgets_values"] == [text, frames] and node["inputs"]["timeline"] == text
        drawn = load_safetensors(_latents(page))["latent_tensor"]
        broken = {"timeline": '{"prompts": 5}'}
        page.page.evaluate(SET_WIDGETS, ["UNetMotion_Timeline", broken])
        drawing.box.locator("svg text").get_by_text("edited as it stands").wait_for()
        page.page.wait_for_function("document.querySelectorAll('textarea').length > 1")
        assert drawing.state() == {"prompts": 5}
        assert page.problems == []
    assert torch.equal(_through_api(server, text), drawn)
    other = json.dumps({**state, "curves": {}})
    assert not torch.equal(_through_api(server, other), drawn)


READ = """async ([texts, folder, frames]) => {
  const {readTimeline, tracksOf} = await import(`/extensions/${folder}/timeline_state.mjs`);
  const {valueAt} = await import(`/extensions/${folder}/curve_editor.mjs`);
  return texts.map((text) => {
    const state = readTimeline(text);
    if (!state) return null;
    const all = Array.from({length: frames}, (_, frame) => frame);
    return tracksOf(state, frames).map(({name, keys}) => name === "prompts"
      ? [name, keys.map(({place}) => place)] : [name, all.map((frame) => valueAt(keys, frame))]);
  });
}"""
FORMS = [
    {"keys": [{"at": "50%", "text": "a"}, {"at": -2, "text": "b"}]},
    {"prompts": {"keys": [{"at": 0.25, "text": "a"}]}, "curves": {"scale": 0.5, "effect": [1, 0.5, 0, *[2] * 10]}},
    {"prompts": {"keys": [{"at": 0, "text": "a"}]},
     "curves": {"cfg": {"over": "steps", "keys": [[0, 1, "smooth"], ["50%", 3], [1, 0]]},
                "strength": [[2, 1], [-1, 5]]}},
]  # fmt: skip
NOT_DRAWN = ["[]", "{", "{}", '{"prompts": {"keys": []}}', '{"prompts": {"keys": [{"text": "a"}]}}',
             '{"prompts": {"keys": [{"at": 0, "text": "a"}]}, "curves": {"size": 1}}']  # fmt: skip


def test_the_page_reads_what_the_server_reads_and_asks_it_for_the_windows(server):
    frames = 13
    with visit(server) as page:
        texts = [json.dumps(form) for form in FORMS] + NOT_DRAWN
        found = page.page.evaluate(READ, [texts, server.folder, frames])
        settings = {"length": "5", "overlap": "2", "stride": "1", "schedule": "standard_static", "loop_frames": "0"}
        windows = json.loads(page.fetch("/unet_motion/window_frames", frames="11", **settings))
        wrong = json.loads(page.fetch("/unet_motion/window_frames", frames="11", length="x"))
    assert windows == {"windows": [[[0, 4]], [[3, 7]], [[6, 10]]]}
    assert wrong == {"error": "`length` is 'x', expected a whole number."}
    assert found[len(FORMS) :] == [None] * len(NOT_DRAWN)
    for form, tracks in zip(FORMS, found, strict=False):
        line = Timeline.parse("t", json.dumps(form))
        places = [key.at.among(frames - 1) for key in line.prompts.keys]
        assert tracks[0] == ["prompts", pytest.approx(places)]
        assert {name for name, _ in tracks[1:]} == line.curves.keys()
        for name, values in tracks[1:]:
            curve = line.curves[name]
            pieces = curve.pieces(None if curve.over == "steps" else frames)
            x = torch.arange(frames) / (frames - 1 if curve.over == "steps" else 1)
            assert values == pytest.approx(pieces.at(x).tolist(), abs=1e-6), name
    assert isinstance(line.prompts, PromptSchedule)
