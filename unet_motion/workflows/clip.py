"""ComfyUI's graph for a clip of `generate`, in the page's format and in the API's, without ComfyUI.

Both start from the same noise and take the same steps, so that the same settings give the same clip up to rounding: a
few of 255 levels. Settings that core nodes cannot follow have no graph: better none than one that makes another clip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .graph import Graph

# Of this library -> sampler and scheduler of KSampler. The others draw fresh noise at every step, from another seed.
# `simple` rounds the noise levels of ddim down where this library rounds to the nearest: at most one of 1000 apart.
KSAMPLER = {"ddim": ("ddim", "simple"), "euler": ("euler", "normal"), "dpmpp_2m": ("dpmpp_2m", "normal")}
UPSCALE = {"lanczos": "lanczos", "nearest": "nearest-exact"}
# A page reads numbers as doubles, and these are the widest that its widgets take.
LARGEST_SEED = 2**53 - 1
SMALLEST_SIDE, LARGEST_SIDE = 16, 16384
SMALLEST_FPS = 0.01
LARGEST_FACTOR = 10.0
MOST_FRAMES, MOST_STRIDE = 4096, 32


def no_graph(settings: Mapping[str, Any]) -> str | None:
    """Why ComfyUI has no equal for settings of `generate`, or None if it has."""
    sides, windows = (settings["width"], settings["height"]), settings.get("windows") or ()
    reasons = {
        "the model is a file of its own": settings["model"] != "bundled" or settings["motion_lora"],
        "its sampler draws other noise in ComfyUI": settings["sampler"] not in KSAMPLER,
        "the seed is too large for the page": settings["seed"] > LARGEST_SEED,
        "the picture is too small or too large": min(sides) < SMALLEST_SIDE
        or max(sides) * settings["scale"] > LARGEST_SIDE,
        "there are too few frames a second": settings["fps"] < SMALLEST_FPS,
        "a FreeU factor is out of range": any(not 0 <= f <= LARGEST_FACTOR for f in settings["freeu"] or ()),
        "the attention is not exact": settings["attention"] == "sage",
        "it has more frames than the page takes": settings["frames"] > MOST_FRAMES,
        "the windows are too far apart for the page": any(part["windows"]["stride"] > MOST_STRIDE for part in windows),
        "the prompt changes over the frames": any(
            not isinstance(settings[name], str) for name in ("prompt", "negative_prompt")
        ),
        "it starts from other noise": settings.get("noise", "default") not in _noises(windows),
        "it is sampled several times": settings.get("free_init") is not None,
        "its products are in float8": settings.get("float8") is not None,
        "some of its steps are not full": settings.get("step_cache") is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def clip_graph(settings: Mapping[str, Any], kind: str, quality: int | None = None) -> Graph | None:
    """The graph that makes the clip of `generate` with these settings again, or None where there is none.

    Args:
        settings: as `generate` writes them into its files.
        kind: of file, as Save Clip calls it: `webp`, `gif`, `mp4` or `sheet`.
        quality: 0 to 100 of a smaller WebP or MP4; None is the best.
    """
    if no_graph(settings) is not None:
        return None
    graph = Graph()
    loaded = (("model", "MODEL"), ("clip", "CLIP"), ("vae", "VAE"))
    loader = graph.add("UNetMotion_LoadBundled", (0, 40, 270, 90), loaded)
    texts = []
    for name, title, top in (("prompt", "Prompt", 40), ("negative_prompt", "Negative prompt", 200)):
        words = {"text": _plain(settings[name])}
        place = (330, top, 340, 110)
        conditioning = [("CONDITIONING", "CONDITIONING")]
        texts.append(graph.add("CLIPTextEncode", place, conditioning, {"clip": (loader, 1)}, words, title))
    size = {"width": settings["width"], "height": settings["height"], "batch_size": settings["frames"]}
    latents = graph.add("EmptyLatentImage", (330, 360, 340, 110), [("LATENT", "LATENT")], widgets=size)
    model = _freeu(graph, loader, settings["freeu"]) if settings["freeu"] else loader
    for number, part in enumerate(settings.get("windows") or ()):
        model = _windows(graph, model, part, number, settings["noise"] == "free_noise")
    positive, negative = texts
    sampled = _sample(graph, (model, positive, negative, latents), settings)
    image = [("IMAGE", "IMAGE")]
    pictures = graph.add("VAEDecode", (1090, 40, 210, 50), image, {"samples": (sampled, 0), "vae": (loader, 2)})
    if settings["scale"] > 1:
        larger = {
            "upscale_method": UPSCALE[settings["filter"]],
            "width": settings["width"] * settings["scale"],
            "height": settings["height"] * settings["scale"],
            "crop": "disabled",
        }
        pictures = graph.add("ImageScale", (1090, 140, 270, 130), image, {"image": (pictures, 0)}, larger)
    file = {"format": kind, "fps": settings["fps"], "quality": 100 if quality is None else quality}
    widgets = {"filename_prefix": "UNetMotion", **file}
    graph.add("UNetMotion_SaveClip", (1420, 40, 320, 420), [("images", "IMAGE")], {"images": (pictures, 0)}, widgets)
    return graph


def _sample(graph: Graph, nodes: tuple[int, int, int, int], settings: Mapping[str, Any]) -> int:
    """KSampler behind the nodes of model, two texts and empty latents."""
    names = ("model", "positive", "negative", "latent_image")
    sampler, scheduler = KSAMPLER[settings["sampler"]]
    return graph.add(
        "KSampler",
        (730, 40, 300, 270),
        [("LATENT", "LATENT")],
        {name: (node, 0) for name, node in zip(names, nodes, strict=True)},
        {
            "seed": settings["seed"],
            "control_after_generate": "fixed",
            "steps": settings["steps"],
            "cfg": settings["guidance"],
            "sampler_name": sampler,
            "scheduler": scheduler,
            "denoise": 1.0,
        },
    )


def _freeu(graph: Graph, loader: int, factors: tuple[float, ...]) -> int:
    s1, s2, b1, b2 = factors
    numbers = {"b1": b1, "b2": b2, "s1": s1, "s2": s2, "start_percent": 0.0, "end_percent": 1.0}
    widgets = {"enabled": True, "preset": "custom", "version": "v1", **numbers}
    return graph.add("UNetMotion_FreeU", (0, 200, 270, 270), [("model", "MODEL")], {"model": (loader, 0)}, widgets)


def _noises(windows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Kinds of noise that ComfyUI starts from too: its own, and FreeNoise where the node's is that of `generate`."""
    same = windows and windows[0]["windows"]["schedule"] in ("standard_static", "standard_uniform")
    return ("default", "free_noise") if same else ("default",)


def _windows(graph: Graph, model: int, part: Mapping[str, Any], number: int, free_noise: bool) -> int:
    """Context Windows for a part of the sampling, behind a node."""
    given = part["windows"]
    widgets = {name: given[name] for name in ("length", "overlap", "stride", "schedule", "closed_loop")}
    widgets |= {"loop_frames": given["loop_frames"] or 0, "fuse": given["fuse"], "free_noise": free_noise}
    widgets |= {"use_on_equal_length": given["use_on_equal_length"], "windows_at_once": 1}
    widgets |= {"start_percent": part["start"], "end_percent": part["end"], "views": part["views"], "frames_at_once": 0}
    place = (300 * number, 540, 270, 520)
    return graph.add("UNetMotion_ContextWindows", place, [("model", "MODEL")], {"model": (model, 0)}, widgets)


def _plain(prompt: str) -> str:
    """A prompt without the signs by which ComfyUI weighs, chooses and leaves out words.

    The bundled model reads words only, so that it is the same prompt to it.
    """
    return re.sub(r"[(){}|\\/*]", " ", prompt)
