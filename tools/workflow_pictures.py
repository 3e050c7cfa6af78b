"""Make the pictures of example workflows that need models: python tools/workflow_pictures.py NAME ...

Each is the workflow's graph on the real page. Needs a ComfyUI and a Chromium, as the tests do (tests/README.md).
Workflows that run on the bundled model show what they draw instead; those pictures are made by hand.
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

from tests.comfyui.browser import visit  # noqa: E402
from tests.comfyui.installations import NOT_FOUND, find_installations  # noqa: E402
from tests.comfyui.server import Server  # noqa: E402
from tools.help_pictures import HIDE, SETTINGS  # noqa: E402

WORKFLOWS = ROOT / "example_workflows"
FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints",
    "LoraLoaderModelOnly": "loras",
    "LoraLoader": "loras",
    "ControlNetLoader": "controlnet",
    "UNetMotion_LoadMotionModule": "animatediff_models",
}
WIDTH = 640
MARGIN = 20
QUALITY = 82

FRAME = """
() => {
    const nodes = app.graph._nodes, TITLE = LiteGraph.NODE_TITLE_HEIGHT
    const end = (best, side) => best(...nodes.map(({pos: [x, y], size: [w, h]}) => [x, y - TITLE, x + w, y + h][side]))
    const [left, top, right, down] = [end(Math.min, 0), end(Math.min, 1), end(Math.max, 2), end(Math.max, 3)]
    const canvas = app.canvas.canvas.getBoundingClientRect()
    const scale = Math.min((canvas.width - 200) / (right - left), (canvas.height - 240) / (down - top))
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [120 / scale - left, 160 / scale - top]
    app.canvas.deselectAll?.()
    app.canvas.draw(true, true)
    return {x: canvas.x + 120, y: canvas.y + 160, width: (right - left) * scale, height: (down - top) * scale}
}
"""


def touch_models(server: Server, path: Path) -> None:
    """Empty files of the names that a workflow gives, or the page would speak of missing models."""
    for node in json.loads(path.read_text())["nodes"]:
        if node["type"] in FOLDERS:
            file = server.base / "models" / FOLDERS[node["type"]] / node["widgets_values"][0]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def main() -> None:
    paths = [WORKFLOWS / f"{name}.json" for name in sys.argv[1:]]
    (installation, *_) = find_installations() or sys.exit(NOT_FOUND)
    with tempfile.TemporaryDirectory() as base:
        server = Server(installation, Path(base))
        for path in paths:
            touch_models(server, path)
        server.start()
        try:
            quiet = {**SETTINGS, "UNetMotion.Loader.FileInfo": False}
            with visit(server, quiet, device_scale_factor=2) as page:
                page.page.add_style_tag(content=HIDE)
                for path in paths:
                    page.open_workflow(path)
                    page.page.wait_for_timeout(1500)
                    box = page.page.evaluate(FRAME)
                    page.page.wait_for_timeout(1000)
                    clip = {side: box[side] - MARGIN for side in ("x", "y")}
                    clip |= {side: box[side] + 2 * MARGIN for side in ("width", "height")}
                    shot = Image.open(io.BytesIO(page.page.screenshot(clip=clip))).convert("RGB")
                    height = round(shot.height * WIDTH / shot.width)
                    shot.resize((WIDTH, height), Image.Resampling.LANCZOS).save(
                        path.with_suffix(".jpg"), quality=QUALITY
                    )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
