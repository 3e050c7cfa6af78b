"""Make the pictures of example workflows: python tools/workflow_pictures.py NAME ...

Workflows that run on the bundled model are run, and show the clip that they draw, moving: an animated WebP, which the
page's list of templates plays although it asks for a .jpg. The others, which need models, show their graph on the real
page. Needs a ComfyUI and a Chromium, as the tests do (tests/README.md).
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.comfyui.browser import Page, visit  # noqa: E402
from tests.comfyui.clips import frames_of  # noqa: E402
from tests.comfyui.installations import NOT_FOUND, find_installations  # noqa: E402
from tests.comfyui.server import Server  # noqa: E402
from tests.comfyui.test_workflows import graph_of  # noqa: E402
from tools.help_pictures import HIDE, SETTINGS  # noqa: E402
from unet_motion.video import read_frames  # noqa: E402
from unet_motion.video.animations import encode_webp  # noqa: E402

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

DRAWN = (
    "first_animation", "bundled_motion_lora", "image_to_animation", "video_to_video",
    "freeu_and_attention_side_by_side", "train_motion_lora", "long_clip", "closed_loop",
    "prompt_travel", "long_video_to_video", "lora_on_some_frames",
)  # fmt: skip
"""What runs on the bundled model."""
SAVERS = ("SaveAnimatedWEBP", "UNetMotion_DecodeToFile")
DRAWN_WIDTH, FPS, MOVING_QUALITY = 400, 8.0, 75

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


def drawn(server: Server, name: str) -> bytes:
    """The clip that a workflow saves, in the size of a card."""
    graph = graph_of(server, name)
    run = server.run(graph)
    if run.error is not None:
        raise RuntimeError(f"{name}: {run.error}")
    *_, saver = (node for node, about in graph.items() if about["class_type"] in SAVERS)
    (clip,) = run.outputs[saver]["images"]
    file = server.file(clip)
    found = read_frames(io.BytesIO(file)) if clip["filename"].endswith(".mp4") else frames_of(file)
    frames = [resized(Image.fromarray(frame.astype(np.uint8)), DRAWN_WIDTH) for frame in found]
    return encode_webp(frames, [round(1000 / FPS)] * len(frames), lossless=False, quality=MOVING_QUALITY)


def graph_picture(page: Page, path: Path) -> Image.Image:
    """A workflow's nodes on the canvas."""
    page.open_workflow(path)
    page.page.wait_for_timeout(1500)
    box = page.page.evaluate(FRAME)
    page.page.wait_for_timeout(1000)
    clip = {side: box[side] - MARGIN for side in ("x", "y")}
    clip |= {side: box[side] + 2 * MARGIN for side in ("width", "height")}
    return resized(Image.open(io.BytesIO(page.page.screenshot(clip=clip))).convert("RGB"), WIDTH)


def resized(picture: Image.Image, width: int) -> Image.Image:
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def main() -> None:
    paths = [WORKFLOWS / f"{name}.json" for name in sys.argv[1:]]
    (installation, *_) = find_installations() or sys.exit(NOT_FOUND)
    with tempfile.TemporaryDirectory() as base:
        server = Server(installation, Path(base))
        for path in paths:
            touch_models(server, path)
        server.start()
        try:
            graphs = [path for path in paths if path.stem not in DRAWN]
            for path in paths:
                if path.stem in DRAWN:
                    path.with_suffix(".jpg").write_bytes(drawn(server, path.stem))
            if graphs:
                photograph(server, graphs)
        finally:
            server.stop()


def photograph(server: Server, paths: list[Path]) -> None:
    quiet = {**SETTINGS, "UNetMotion.Loader.FileInfo": False}
    with visit(server, quiet, device_scale_factor=2) as page:
        page.page.add_style_tag(content=HIDE)
        for path in paths:
            graph_picture(page, path).save(path.with_suffix(".jpg"), quality=QUALITY)


if __name__ == "__main__":
    main()
