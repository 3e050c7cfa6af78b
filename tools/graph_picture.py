"""Make the README's picture of a graph that runs, assets/graph.webp: python tools/graph_picture.py

The template first_animation on the real page, with the loop that the sampler shows while it works and the finished clip
beside it. Needs a ComfyUI and a Chromium, as the tests do (tests/README.md).
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.comfyui.browser import Page, visit  # noqa: E402
from tests.comfyui.installations import NOT_FOUND, find_installations  # noqa: E402
from tests.comfyui.server import Server  # noqa: E402
from tools.help_pictures import HIDE, SETTINGS  # noqa: E402
from unet_motion.video.animations import encode_webp  # noqa: E402
from unet_motion.video.metadata import Labels, with_findable_exif  # noqa: E402

PICTURE = ROOT / "assets" / "graph.webp"
WORKFLOW = ROOT / "example_workflows" / "first_animation.json"
VIEWPORT = {"width": 1500, "height": 1000}
WIDTH = 1000
RUNNING, FINISHED, MILLISECONDS = 24, 12, 150
"""Pictures while the sampler works and of the finished clip, and how long each is shown."""
QUALITY = 60
LOOP = "img.unet-motion-preview"
# The whole graph below the page's bars; gives its place on the page.
PLACE = """
() => {
    const TITLE = LiteGraph.NODE_TITLE_HEIGHT, MARGIN = 20, TOP = 250
    const boxes = app.graph._nodes.map(({pos: [x, y], size: [width, height]}) => [x, y - TITLE, x + width, y + height])
    const end = (best, side) => best(...boxes.map(box => box[side]))
    const [left, top, right, down] = [end(Math.min, 0), end(Math.min, 1), end(Math.max, 2), end(Math.max, 3)]
    const canvas = app.canvas.canvas.getBoundingClientRect()
    const scale = (canvas.width - 2 * MARGIN) / (right - left)
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [MARGIN / scale - left, TOP / scale - top]
    app.canvas.draw(true, true)
    const height = (down - top) * scale + 2 * MARGIN
    return {x: canvas.x, y: canvas.y + TOP - MARGIN, width: canvas.width, height: height}
}
"""


def frames_of_a_run(page: Page) -> list[Image.Image]:
    """Pictures of the graph from the first preview on, and of its finished clip."""
    page.open_workflow(WORKFLOW)
    page.close_dialogs()
    page.page.add_style_tag(content=HIDE)
    page.page.evaluate("app.queuePrompt(0)")
    page.page.wait_for_selector(LOOP, state="visible")

    def shot() -> Image.Image:
        picture = Image.open(io.BytesIO(page.page.screenshot(clip=page.page.evaluate(PLACE)))).convert("RGB")
        return picture.resize((WIDTH, WIDTH * picture.height // picture.width), Image.Resampling.LANCZOS)

    running = [shot()]
    while page.page.evaluate("!Object.values(app.nodeOutputs ?? {}).some(output => output?.images?.length)"):
        running.append(shot())
    page.page.wait_for_timeout(2000)
    finished = [shot() for _ in range(FINISHED)]
    size = finished[-1].size
    chosen = running[:: -(-len(running) // RUNNING)]
    return [frame if frame.size == size else _padded(frame, size) for frame in chosen] + finished


def _padded(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A node that shows a result is higher: so are all pictures."""
    page = Image.new("RGB", size, frame.getpixel((0, frame.height - 1)))
    page.paste(frame)
    return page


def main() -> None:
    (installation, *_) = find_installations() or sys.exit(NOT_FOUND)
    with tempfile.TemporaryDirectory() as base:
        server = Server(installation, Path(base))
        server.start()
        try:
            with visit(server, SETTINGS, viewport=VIEWPORT) as page:
                first, *others = frames_of_a_run(page)
        finally:
            server.stop()
    pictures = [first, *others]
    # Dropped on ComfyUI's page, the picture brings the graph that it shows.
    exif = Labels.of(None, {"workflow": json.loads(WORKFLOW.read_text())}).exif()
    webp = encode_webp(pictures, [MILLISECONDS] * len(pictures), 0, exif, lossless=False, quality=QUALITY, method=6)
    PICTURE.write_bytes(with_findable_exif(webp))
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
