"""Make the pictures of the help pages, web/docs/images: python tools/help_pictures.py [NodeId ...]

Each node stands in its usual surroundings on the real page, in English and in Chinese; where the bundled model shows
what a setting does, a clip of that lies beside it. Needs a ComfyUI and a Chromium, as the tests do (tests/README.md).
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.comfyui.big_files import checkpoint_shapes, write_attention_lora, write_motion_lora, write_sparse  # noqa: E402
from tests.comfyui.browser import Page, visit  # noqa: E402
from tests.comfyui.installations import NOT_FOUND, find_installations  # noqa: E402
from tests.comfyui.server import Server  # noqa: E402
from unet_motion import ForwardOptions, FreeU, MotionAdapterConfig, MotionPipeline  # noqa: E402
from unet_motion.formats.shapes import adapter_shapes  # noqa: E402
from unet_motion.sampling import ContextWindows  # noqa: E402
from unet_motion.sampling.window_picture import draw_windows  # noqa: E402
from unet_motion.video import write_video  # noqa: E402

IMAGES = ROOT / "web" / "docs" / "images"
SHARPNESS = 1.5
VIEWPORT = {"width": 1400, "height": 1300}
"""High enough for the longest node."""
MARGIN = 14
QUALITY = 80
SEED = 7


@dataclass
class Scene:
    """What is around a node.

    Attributes:
        before: input -> type of the node and its output.
        after: types of nodes that take the first output, with the input that takes it.
        values: of widgets.
    """

    before: dict[str, tuple[str, str]] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)


CHECKPOINT = ("CheckpointLoaderSimple", "MODEL")
BUNDLED = ("UNetMotion_LoadBundled", "model")
APPLIED = ("UNetMotion_ApplyMotionModule", "model")
MODULE = ("UNetMotion_LoadMotionModule", "motion_module")
TO_SAMPLER = {"KSampler": "model"}
TO_APPLY = {"UNetMotion_ApplyMotionModule": "motion_module"}
TEXT = ("CLIPTextEncode", "CONDITIONING")

SCENES = {
    "UNetMotion_LoadBundled": Scene(after={"KSampler": "model", "CLIPTextEncode": "clip", "VAEDecode": "vae"}),
    "UNetMotion_LoadUNet": Scene(
        after=TO_SAMPLER, values={"unet_name": "sd15.safetensors", "motion_module": "v3_mm.safetensors"}
    ),
    "UNetMotion_LoadMotionModule": Scene(after=TO_APPLY, values={"motion_module": "v3_mm.safetensors"}),
    "UNetMotion_ApplyMotionModule": Scene({"model": CHECKPOINT, "motion_module": MODULE}, TO_SAMPLER),
    "UNetMotion_MergeMotionModules": Scene(
        {"motion_module_1": MODULE, "motion_module_2": MODULE},
        TO_APPLY,
        {"weight_1": 0.7, "weight_2": 0.3, "blocks": "up_blocks.1=0.2,0.8"},
    ),
    "UNetMotion_ScaleMotionBlocks": Scene(
        {"motion_module": MODULE}, TO_APPLY, {"up": 0.8, "blocks": "down_blocks.0=0.5"}
    ),
    "UNetMotion_LoadLoRA": Scene({"model": APPLIED}, TO_SAMPLER, {"lora_name": "style.safetensors", "strength": 0.8}),
    "UNetMotion_LoadMotionLoRA": Scene(
        {"model": APPLIED},
        TO_SAMPLER,
        {"lora_name": "pan_left.safetensors", "strength": 0.8, "strength_over_frames": "0:0, 15:1"},
    ),
    "UNetMotion_LoRAHook": Scene(
        {"model": BUNDLED},
        {"PairConditioningSetProperties": "hooks"},
        {"lora_name": "pan-left (bundled)"},
    ),
    "UNetMotion_Curve": Scene(
        after={"UNetMotion_MotionAmount": "effect_curve"}, values={"text": "0:0, 8:1 smooth, -1:0"}
    ),
    "UNetMotion_PromptSchedule": Scene({"clip": ("UNetMotion_LoadBundled", "clip")}, {"KSampler": "positive"}),
    "UNetMotion_Timeline": Scene(
        {"model": BUNDLED, "clip": ("UNetMotion_LoadBundled", "clip")},
        {"KSampler": "model"},
        {
            "timeline": json.dumps(
                {
                    "prompts": {
                        "keys": [{"at": at, "text": f"a {what}"} for at, what in ((0, "red star"), (9, "blue star"))]
                    },
                    "curves": {"effect": [[0, 0, "smooth"], [6, 1]]},
                }
            )
        },
    ),
    "UNetMotion_MotionAmount": Scene({"model": BUNDLED}, TO_SAMPLER, {"scale": 1.1}),
    "UNetMotion_AddMotionModule": Scene({"model": APPLIED, "motion_module": MODULE}, TO_SAMPLER, {"effect": 0.5}),
    "UNetMotion_ControlStrength": Scene(
        {
            "positive": ("ControlNetApplyAdvanced", "positive"),
            "negative": ("ControlNetApplyAdvanced", "negative"),
            "strength_curve": ("UNetMotion_Curve", "motion_curve"),
        },
        {"KSampler": "positive"},
    ),
    "UNetMotion_MaskStrength": Scene(
        {"mask": ("SolidMask", "MASK"), "strength_curve": ("UNetMotion_Curve", "motion_curve")},
        {"SetLatentNoiseMask": "mask"},
    ),
    "UNetMotion_ImageInjection": Scene(
        {"model": BUNDLED, "vae": ("UNetMotion_LoadBundled", "vae"), "image": ("LoadImage", "IMAGE")}, TO_SAMPLER
    ),
    "UNetMotion_Guidance": Scene({"model": BUNDLED}, TO_SAMPLER, {"cfg": 4.0}),
    "UNetMotion_StepCache": Scene({"model": BUNDLED}, TO_SAMPLER),
    "UNetMotion_FreeU": Scene({"model": BUNDLED}, TO_SAMPLER),
    "UNetMotion_AttentionProcessor": Scene({"model": APPLIED}, TO_SAMPLER),
    "UNetMotion_ForwardChunking": Scene({"model": APPLIED}, TO_SAMPLER, {"chunk_size": 4}),
    "UNetMotion_Performance": Scene({"model": APPLIED}, TO_SAMPLER, {"kernels": "triton", "cuda_graphs": True}),
    "UNetMotion_PIA": Scene({"model": APPLIED, "first_frame": ("VAEEncode", "LATENT")}, TO_SAMPLER),
    "UNetMotion_AnimateLCMI2V": Scene({"model": APPLIED, "picture": ("VAEEncode", "LATENT")}, TO_SAMPLER),
    "UNetMotion_Sampler": Scene(
        {"model": BUNDLED, "positive": TEXT, "negative": TEXT, "latent_image": ("EmptyLatentImage", "LATENT")},
        {"VAEDecode": "samples"},
        {"seed": SEED, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"},
    ),
    "UNetMotion_ContextWindows": Scene({"model": BUNDLED}, TO_SAMPLER),
    "UNetMotion_ShowContextWindows": Scene(
        {"model": ("UNetMotion_ContextWindows", "model"), "latent_image": ("EmptyLatentImage", "LATENT")},
        {"PreviewImage": "images"},
    ),
    "UNetMotion_SaveClip": Scene({"images": ("VAEDecode", "IMAGE")}),
    "UNetMotion_Noise": Scene(after={"SamplerCustomAdvanced": "noise"}),
    "UNetMotion_UseNoise": Scene({"model": BUNDLED, "noise": ("UNetMotion_Noise", "noise")}, TO_SAMPLER),
    "UNetMotion_FreeInit": Scene({"model": BUNDLED}, TO_SAMPLER),
    "UNetMotion_DecodeToFile": Scene(
        {"samples": ("KSampler", "LATENT"), "vae": ("UNetMotion_LoadBundled", "vae")}, values={"quality": 90}
    ),
    "UNetMotion_EncodeFromFile": Scene(
        {"video": ("LoadVideo", "VIDEO"), "vae": ("UNetMotion_LoadBundled", "vae")},
        {"KSampler": "latent_image"},
        {"frames": 64, "width": 512, "height": 512},
    ),
    "UNetMotion_TrainMotionLoRA": Scene(
        {
            "model": BUNDLED,
            "clip": ("UNetMotion_LoadBundled", "clip"),
            "vae": ("UNetMotion_LoadBundled", "vae"),
            "images": ("VAEDecode", "IMAGE"),
        },
        {"LoraModelLoader": "lora", "LossGraphNode": "loss"},
        {"captions": "a red square still", "learning_rate": 0.01, "steps": 100, "noise_power": 1.0, "seed": 7},
    ),
}

BUILD = """
async ({node, scene}) => {
    const graph = app.graph
    // A new page keeps widget values by the id of the node: no id is used again.
    const used = graph.last_node_id
    graph.clear()
    graph.last_node_id = used
    const add = (type, pos) => {
        const made = LiteGraph.createNode(type)
        made.pos = pos
        graph.add(made)
        return made
    }
    const link = (from, output, to, input) => from.connect(from.findOutputSlot(output), to, to.findInputSlot(input))
    const main = add(node, [0, 0])
    main.setSize([Math.max(main.size[0], 270), main.size[1]])
    for (const [name, value] of Object.entries(scene.values)) {
        const widget = main.widgets.find(widget => widget.name === name)
        if (!widget) throw new Error(`${node} has no widget ${name}`)
        widget.value = value
        widget.callback?.(value)
    }
    // A loader asks the server what its file is, and grows by the answer.
    for (let height = 0; height !== main.size[1];) {
        height = main.size[1]
        await new Promise(done => setTimeout(done, 2500))
    }
    const STEP = 44
    const before = Object.entries(scene.before)
    const sources = before.map(([input, [type, output]], index) => {
        const source = add(type, [-50 + 28 * index, -96 - STEP * (before.length - 1 - index)])
        source.collapse()
        link(source, output, main, input)
        return source
    })
    const below = main.size[1] + 56
    const targets = Object.entries(scene.after).map(([type, input], index) => {
        const target = add(type, [main.size[0] - 120 - 28 * index, below + STEP * index])
        target.collapse()
        const output = main.outputs.length > 1 ? index : 0
        main.connect(output, target, target.findInputSlot(input))
        return target
    })
    app.canvas.deselectAll?.()
    app.canvas.draw(true, true)
    return [main, ...sources, ...targets].map(node => node.id)
}
"""
FRAME = """
ids => {
    const nodes = ids.map(id => app.graph.getNodeById(id))
    const TITLE = LiteGraph.NODE_TITLE_HEIGHT
    const boxes = nodes.map(({pos: [x, y], size: [width, height], flags: {collapsed}, _collapsed_width}) =>
        [x, y - TITLE, x + (collapsed ? _collapsed_width : width), y + (collapsed ? 0 : height)])
    const end = (best, side) => best(...boxes.map(box => box[side]))
    const [left, top, right, down] = [end(Math.min, 0), end(Math.min, 1), end(Math.max, 2), end(Math.max, 3)]
    const canvas = app.canvas.canvas.getBoundingClientRect()
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [120 - left, 120 - top]
    app.canvas.draw(true, true)
    return {x: canvas.x + 120, y: canvas.y + 120, width: right - left, height: down - top}
}
"""
# Only the canvas and the widgets on it.
HIDE = """
.comfyui-body-top, .comfyui-body-left, .comfyui-body-right, .comfyui-body-bottom, .side-tool-bar-container,
.selection-toolbox, .minimap-main-container, .graph-canvas-panel > *, .p-toast { visibility: hidden !important }
.dom-widget, .dom-widget * { visibility: visible !important }
"""
SETTINGS = {
    "Comfy.Graph.CanvasInfo": False, "Comfy.Minimap.Visible": False, "Comfy.Canvas.SelectionToolbox": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None", "Comfy.Graph.CanvasMenu": False,
}  # fmt: skip


def make_files(server: Server) -> None:
    """Files that the loaders offer and recognise."""
    models = server.base / "models"
    for folder in ("animatediff_models", "animatediff_motion_lora", "checkpoints", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    v3 = MotionAdapterConfig(use_motion_mid_block=False)
    write_sparse(models / "animatediff_models" / "v3_mm.safetensors", adapter_shapes(v3))
    write_sparse(models / "checkpoints" / "sd15.safetensors", checkpoint_shapes())
    write_attention_lora(models / "loras" / "style.safetensors")
    write_motion_lora(models / "animatediff_motion_lora" / "pan_left.safetensors", v3)


def graph_picture(page: Page, node: str) -> Image.Image:
    """The node and its neighbours on the canvas."""
    scene = SCENES[node]
    given = {"before": scene.before, "after": scene.after, "values": scene.values}
    ids = page.page.evaluate(BUILD, {"node": node, "scene": given})
    page.page.wait_for_timeout(300)
    box = page.page.evaluate(FRAME, ids)
    page.page.wait_for_timeout(500)
    clip = {"x": box["x"] - MARGIN, "y": box["y"] - MARGIN}
    clip |= {"width": box["width"] + 2 * MARGIN, "height": box["height"] + 2 * MARGIN}
    return Image.open(io.BytesIO(page.page.screenshot(clip=clip))).convert("RGB")


def graph_pictures(nodes: list[str]) -> None:
    (installation, *_) = find_installations() or sys.exit(NOT_FOUND)
    with tempfile.TemporaryDirectory() as base:
        server = Server(installation, Path(base))
        make_files(server)
        server.start()
        try:
            for language, suffix in (("en", ""), ("zh", ".zh")):
                settings = {**SETTINGS, "Comfy.Locale": language}
                with visit(server, settings, device_scale_factor=SHARPNESS, viewport=VIEWPORT) as page:
                    page.page.add_style_tag(content=HIDE)
                    for node in nodes:
                        picture = graph_picture(page, node)
                        picture.save(IMAGES / f"{node}{suffix}.webp", quality=QUALITY, method=6)
        finally:
            server.stop()


def captioned(frames: np.ndarray, text: str, enlarged: int = 2) -> np.ndarray:
    """A clip, uint8 (F, H, W, 3), enlarged, with a caption above it."""
    font, made = ImageFont.load_default(13), []
    for frame in frames:
        size = frame.shape[1] * enlarged
        page = Image.new("RGB", (size + 8, size + 28), "#202020")
        page.paste(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS), (4, 24))
        ImageDraw.Draw(page).text((page.width / 2, 5), text, font=font, fill="white", anchor="ma")
        made.append(np.asarray(page))
    return np.stack(made)


def grid(clips: list[np.ndarray], columns: int = 2) -> np.ndarray:
    rows = [np.concatenate(clips[i : i + columns], axis=2) for i in range(0, len(clips), columns)]
    return np.concatenate(rows, axis=1)


def bundled_effect(pipeline: MotionPipeline) -> np.ndarray:
    prompts = ("a red star moving left", "a blue ring growing", "a green heart spinning", "a yellow cross still")
    return grid([captioned(pipeline(prompt, seed=SEED), prompt.removeprefix("a ")) for prompt in prompts])


def freeu_effect(pipeline: MotionPipeline) -> np.ndarray:
    wanted = {
        "enabled: false": None,
        "b1, b2: 1.2": FreeU(b1=1.2, b2=1.2, s1=1.0, s2=1.0),
        "s1, s2: 0.5": FreeU(b1=1.0, b2=1.0, s1=0.5, s2=0.5),
        "preset: sd1.4": FreeU(b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    }
    prompt = "an orange heart moving up"
    return grid(
        [captioned(pipeline(prompt, seed=SEED, options=ForwardOptions(freeu=freeu)), name) for name, freeu in
         wanted.items()]
    )  # fmt: skip


def sampler_effect(pipeline: MotionPipeline) -> np.ndarray:
    prompt = "a purple moon moving right"
    wanted = {"steps 2": (2, 4.0), "steps 20": (20, 4.0), "cfg 1": (20, 1.0), "cfg 12": (20, 12.0)}
    clips = {name: pipeline(prompt, seed=SEED, steps=steps, guidance=cfg) for name, (steps, cfg) in wanted.items()}
    return grid([captioned(clip, name) for name, clip in clips.items()])


def windows_effect(_: MotionPipeline) -> np.ndarray:
    windows = ContextWindows(16, 4, 1, "looped_uniform", closed_loop=True)
    return draw_windows([windows.plan(32, step) for step in range(12)], 32)[None]


EFFECTS = {
    "UNetMotion_LoadBundled": bundled_effect,
    "UNetMotion_FreeU": freeu_effect,
    "UNetMotion_Sampler": sampler_effect,
    "UNetMotion_ShowContextWindows": windows_effect,
}


def main() -> None:
    nodes = sys.argv[1:] or list(SCENES)
    IMAGES.mkdir(parents=True, exist_ok=True)
    graph_pictures(nodes)
    pipeline = MotionPipeline.bundled(dtype=torch.float32)
    for node in EFFECTS.keys() & set(nodes):
        write_video(IMAGES / f"{node}.effect.webp", EFFECTS[node](pipeline), fps=8, quality=QUALITY)


if __name__ == "__main__":
    main()
