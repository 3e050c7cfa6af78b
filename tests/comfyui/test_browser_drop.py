"""Files that the pack wrote are dropped on the page: their workflow is there again."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.comfyui.browser import visit, why_not
from unet_motion.cli import main
from unet_motion.video import read_graphs
from unet_motion.workflows.clip import clip_graph

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

SETTINGS = {
    "prompt": "a green heart spinning", "negative_prompt": "blue", "seed": 2**53 - 1, "steps": 1, "guidance": 3.25,
    "frames": 3, "width": 64, "height": 48, "sampler": "euler", "fps": 12.5, "scale": 2, "filter": "lanczos",
    "freeu": [0.9, 0.2, 1.2, 1.4], "attention": "auto", "model": "bundled", "motion_lora": [],
}  # fmt: skip
TYPES = {"webp": "image/webp", "sheet": "image/png", "mp4": "video/mp4"}

# The page takes a file from a drop event and from nothing else.
DROP = """async ([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    const canvas = window.app.canvas.canvas, box = canvas.getBoundingClientRect();
    const place = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};
    for (const kind of ["dragenter", "dragover", "drop"])
        canvas.dispatchEvent(
            new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer, ...place}));
}"""
# The page covers itself while it reads a file, and complains if the next one comes before it is uncovered.
UNCOVERED = "() => !window.app.extensionManager.spinner && !document.querySelector('.p-blockui-mask, .p-overlay-mask')"
NODES = """() => Object.fromEntries(window.app.graph._nodes.map(node => [String(node.id), {
    type: node.type,
    widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value])),
    links: Object.fromEntries(node.inputs.filter(input => input.link != null).map(input => {
        const link = window.app.graph.links.get?.(input.link) ?? window.app.graph.links[input.link];
        return [input.name, [String(link.origin_id), link.origin_slot]];
    })),
}]))"""


def drop(page, name: str, kind: str, data: bytes, graph: dict) -> None:
    """Drop a file on the canvas and compare the nodes that are then there, their widgets and links, with a graph."""
    page.page.evaluate("window.app.graph._nodes.forEach(node => { node.before = true })")
    page.page.evaluate(DROP, [name, TYPES[kind], base64.b64encode(data).decode()])
    page.page.wait_for_function(
        "count => window.app.graph._nodes.filter(node => !node.before).length === count",
        arg=len(graph),
        timeout=180_000,
    )
    page.page.wait_for_function("() => !window.app.graph._nodes.some(node => node.before)")
    page.page.wait_for_function(UNCOVERED)
    shown = page.page.evaluate(NODES)
    assert {number: node["type"] for number, node in shown.items()} == {
        number: node["class_type"] for number, node in graph.items()
    }
    for number, node in graph.items():
        links = {input: value for input, value in node["inputs"].items() if isinstance(value, list)}
        widgets = {input: value for input, value in node["inputs"].items() if input not in links}
        assert shown[number]["links"] == links
        assert {input: shown[number]["widgets"].get(input) for input in widgets} == widgets, node["class_type"]


def three_files() -> dict:
    """A workflow that saves a clip as WebP, sheet and MP4."""
    graph = clip_graph(SETTINGS, "webp")
    (pictures,) = (node.links["images"] for node in graph.nodes if node.kind == "UNetMotion_SaveClip")
    for place, kind in ((500, "sheet"), (960, "mp4")):
        widgets = {"filename_prefix": f"drop/{kind}", "format": kind, "fps": 12.5, "quality": 90}
        graph.add("UNetMotion_SaveClip", (1420, place, 320, 420), (), {"images": pictures}, widgets)
    return graph.workflow()


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> dict[str, Path]:
    """A WebP, a sheet and an MP4 of the command line."""
    folder = tmp_path_factory.mktemp("generated")
    few = ["--frames", "3", "--steps", "1", "--scale", "2", "--json", "--sheet", str(folder / "sheet.png")]
    for name in ("clip.webp", "clip.mp4"):
        assert main(["generate", "a (red) star {moving} left", "--out", str(folder / name), *few]) == 0
    return {"webp": folder / "clip.webp", "sheet": folder / "sheet.png", "mp4": folder / "clip.mp4"}


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_dropped_files_bring_their_workflow_back(server, generated, tmp_path, renderer):
    if renderer == "vue" and server.installation.version == "0.3.64":
        pytest.skip("this page has the classic renderer only")
    workflow = tmp_path / "three files.json"
    workflow.write_text(json.dumps(three_files()))
    # What is in the cache would not be saved again.
    server.free()
    with visit(server, {"Comfy.VueNodes.Enabled": renderer == "vue"}) as page:
        page.open_workflow(workflow)
        page.press_run()
        page.finished_clip()
        (run,) = json.loads(page.fetch("/history")).values()
        entries = [entry for output in run["outputs"].values() for entry in output.get("images", ())]
        kinds = {".webp": "webp", ".png": "sheet", ".mp4": "mp4"}
        saved = {kinds[Path(entry["filename"]).suffix]: entry for entry in entries}
        assert set(saved) == set(TYPES)
        for entry in saved.values():
            page.shows_output(entry["filename"])
        page.picture(f"save_clip-{renderer}")
        with Image.open(io.BytesIO(page.fetch("/view", **saved["webp"]))) as picture:
            assert picture.n_frames == 3 and picture.size == (128, 96)
        for kind, entry in saved.items():
            drop(page, entry["filename"], kind, page.fetch("/view", **entry), run["prompt"][2])
        page.picture(f"dropped_save_clip-{renderer}")
        for kind, path in generated.items():
            drop(page, path.name, kind, path.read_bytes(), read_graphs(path)["prompt"])
        page.picture(f"dropped_generate-{renderer}")
        assert page.problems == []
