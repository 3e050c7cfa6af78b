"""`unet-motion generate`: a prompt to a file."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..values import quoted
from .long_clip_options import add_free_init_arguments, add_window_arguments, free_init_of, noise_of, windows_of

if TYPE_CHECKING:
    import numpy as np

    from ..sampling import MotionPipeline

SHOWN_WORDS = 8
DTYPES = ("float32", "bfloat16", "float16")
WORKFLOW_INSIDE = (
    "WebP, PNG and MP4 files also hold the ComfyUI workflow that makes the same clip: drop the file on "
    "ComfyUI's page. None with --prompts, --model, --motion-lora, --free-init, --step-cache, --float8, --attention "
    "sage or --noise (but --free-noise, with the schedules standard_static and standard_uniform), with the samplers "
    "euler_ancestral and lcm (ComfyUI draws their noise from another seed), with a seed of 2**53 or more, over 4096 "
    "frames, a stride over 32, a side below 16 or, enlarged, above 16384 pixels, less than 0.01 fps, or FreeU factors "
    "outside 0 to 10."
)


def add_arguments(subparsers) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="make a clip from a prompt: animated WebP, GIF, MP4, or PNG frames",
        description="Make a clip from a prompt with the bundled model, which knows drawn shapes, colours and motions.",
        epilog=f"{WORKFLOW_INSIDE} Under torchrun the processes share the windows of one clip.",
    )
    add_clip_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and nothing else")
    parser.set_defaults(run=run)


def add_clip_arguments(parser: argparse.ArgumentParser) -> None:
    """All that says what a clip is, how it is made and where it goes."""
    add = parser.add_argument
    _add_prompt(parser.add_mutually_exclusive_group(required=True))
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write: .webp, .gif, .mp4, .png (all frames in one picture), or no suffix for a folder "
        "of PNG frames; default: output/<prompt>-<seed>.webp",
    )
    add("--sheet", type=Path, metavar="FILE.png", help="also write all frames in one picture")
    add("--negative", default="", metavar="PROMPT", help="what to keep away from")
    add("--seed", type=int, default=0, help="0 to 2**64 - 1; the same seed gives the same file (default 0)")
    add("--steps", type=int, default=20, help="model evaluations; time grows with it (default 20)")
    add("--guidance", type=float, default=3.0, help="how closely to follow the prompt; 1 is off (default 3)")
    add("--frames", type=int, default=16, help="frames of the clip (default 16); more than the model knows: --window")
    add("--width", type=int, default=64, help="pixels, a multiple of 8 (default 64, as trained)")
    add("--height", type=int, default=64, help="pixels, a multiple of 8 (default 64, as trained)")
    add("--sampler", default="ddim", help="ddim, euler, euler_ancestral, dpmpp_2m or lcm (default ddim)")
    add("--fps", type=float, default=8.0, help="frames a second in the file (default 8)")
    add("--scale", type=int, default=4, help="enlarge the pictures this many times (default 4)")
    add("--filter", default="lanczos", help="how to enlarge: lanczos or nearest (default lanczos)")
    add("--quality", type=int, help="0 to 100 for a smaller WebP or MP4 (default: a lossless WebP, the best MP4)")
    _add_model_arguments(add)
    add_window_arguments(parser.add_argument_group("clips of any length, drawn in overlapping windows"))
    add_free_init_arguments(parser.add_argument_group("FreeInit: less flicker, for several times the time"))


def _add_model_arguments(add: Callable[..., Any]) -> None:
    """What acts on the model, and where it computes."""
    add("--freeu", type=_freeu_factors, metavar="S1,S2,B1,B2", help="FreeU factors, such as 0.9,0.2,1.2,1.4")
    add("--attention", default="auto", help="attention processor: auto, sdpa, math, sliced, ... (default auto)")
    add(
        "--model",
        type=Path,
        metavar="FILE",
        help="a model of `unet-motion train bundled` (default: the one that ships)",
    )
    add(
        "--motion-lora",
        action="append",
        default=[],
        metavar="NAME|FILE[:STRENGTH]",
        help="a LoRA on the model: a bundled one such as pan-left, or a file, such as "
        "pan.safetensors:0.8 (without a number: 1); may be given several times",
    )
    add(
        "--allow-partial", action="store_true",
        help="use what fits of a motion LoRA of which some layers do not fit the model (default: it is refused)",
    )  # fmt: skip
    add("--device", help="torch device, such as cpu or cuda (default: a CUDA device where there is one)")
    add(
        "--dtype", choices=DTYPES,
        help="that the UNet computes in; default: bfloat16 on a CPU that is made for it (AMX, AVX512-BF16), else "
        "float32",
    )  # fmt: skip
    add(
        "--float8", action="store_true",
        help="round the UNet's products around attention to float8, for cards that multiply it faster than 16 bits; "
        "the bundled model is too small to gain, and shows what it errs by (docs/float8.md)",
    )  # fmt: skip
    add(
        "--step-cache", metavar="NAME|SETTINGS",
        help="fewer full steps: careful, balanced, fast, or settings such as interval=3,layers=1 (docs/step-cache.md)",
    )  # fmt: skip
    add("--frames-at-once", type=int, metavar="N", help="in layers that look at single frames: less memory")


def _add_prompt(group) -> None:
    group.add_argument("prompt", nargs="?", help='what to draw, such as "a red star moving left"')
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='prompts over the frames in place of one: lines such as "0": "a red star", "15": "a blue star", or JSON; '
        "--neg in them for the negative ones. The JSON of the node Timeline, too: its curves scale, effect and cfg (in "
        "the place of --guidance) count as they do there",
    )


def run(args: argparse.Namespace) -> None:
    from .torchrun import Launch

    path, call = check_output(args), call_arguments(args)
    launch = Launch.of(args.device, call["windows"])
    start = time.perf_counter()
    pipeline = load(args, launch.device)
    unknown = unknown_words(pipeline, call)
    if launch.speaks:
        for line in [*notes(args), *left_out(pipeline), *words_said(pipeline, unknown)]:
            print(f"unet-motion generate: {line}", file=sys.stderr)
    with launch.ranks() as ranks:
        frames = pipeline(**call, progress=launch.speaks and not args.json, ranks=ranks)
    if not launch.speaks:
        return
    height, width = write(args, path, frames)
    seconds, skipped = time.perf_counter() - start, pipeline.skipped
    if args.json:
        report = {"path": str(path), "seconds": round(seconds, 2), "unknown_words": unknown}
        print(json.dumps({**report, "skipped": skipped and skipped.to_json(), **describe(args)}))
    else:
        end = "" if skipped is None else f"\n{skipped}"
        print(f"{path}: {len(frames)} frames of {width}x{height}, in {seconds:.1f} s{end}")


def call_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What a pipeline is called with for the clip; all that can be said without a model is checked."""
    windows, free_init = windows_of(args), free_init_of(args)
    return dict(
        **_asked(args),
        frames=args.frames,
        steps=args.steps,
        seed=args.seed,
        sampler=args.sampler,
        width=args.width,
        height=args.height,
        windows=windows,
        frames_at_once=args.frames_at_once,
        windows_at_once=args.windows_at_once,
        noise=noise_of(args),
        free_init=free_init,
        step_cache=_step_cache(args),
    )


def notes(args: argparse.Namespace) -> list[str]:
    """A sentence for each thing asked for that acts as less than it says: strides wider than the clip has room for, and
    curves of a file that nothing here takes."""
    said = []
    for windows in dict.fromkeys(part.windows for part in windows_of(args) or ()):
        used = windows.strides(args.frames)
        if windows.stride > used:
            room = f"{args.frames} frames with windows of {windows.length} ({windows.schedule})"
            said.append(f"a stride of {windows.stride} acts as {used} on {room}")
    cache = _step_cache(args)
    if cache is not None and cache.is_idle:
        said.append(f"the step cache {args.step_cache} leaves nothing out: all its steps are full")
    elif cache is not None and args.guidance == 1 and cache.leaves_halves_out:
        said.append("guidance is 1: there is no unconditional half that the step cache could leave out")
    timeline = _timeline(args)
    if timeline is not None and "strength" in timeline.curves:
        said.append(f"{args.prompts}: the curve `strength` is left out: nothing here takes it")
    return said


def write(args: argparse.Namespace, path: Path, frames: np.ndarray) -> tuple[int, int]:
    """Write the clip, and the sheet where one is asked for; the height and width of the pictures."""
    from .. import video

    settings = describe(args)
    enlarged = video.resize(frames, args.scale, args.filter)
    graphs = _graphs(settings, path, args.quality)
    video.write_video(path, enlarged, args.fps, settings, quality=args.quality, graphs=graphs)
    if args.sheet is not None:
        video.write_video(args.sheet, enlarged, metadata=settings, graphs=_graphs(settings, args.sheet))
    return enlarged.shape[1], enlarged.shape[2]


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """Prompts, guidance and options: as the command line says, or those of a file with their curves."""
    from ..sampling import timeline_arguments

    timeline = _timeline(args)
    given = {"negative_prompt": args.negative, "guidance": args.guidance, "options": _options(args)}
    if timeline is None:
        return {"prompt": args.prompt, **given}
    if args.negative and timeline.prompts.split_negative()[1].texts != ("",):
        raise ValueError(
            f"--negative is {quoted(args.negative)}, but {args.prompts} has negative prompts, expected one of both"
        )
    try:
        return timeline_arguments(timeline, args.frames, **given)
    except ValueError as error:
        raise ValueError(f"--prompts {args.prompts}: {error}") from None


def _timeline(args: argparse.Namespace):
    """What the file of prompts holds, or None without one."""
    from ..schedule import Timeline

    if args.prompts is None:
        return None
    try:
        text = args.prompts.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"--prompts {args.prompts} cannot be read ({error.strerror}), expected a text file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {args.prompts} is not UTF-8 ({error.reason}), expected a text file") from error
    return Timeline.read(str(args.prompts), text)


def check_output(args: argparse.Namespace) -> Path:
    """The file to write, after checking all that concerns files: better before a long run than after it."""
    from .. import video

    path = args.out or default_path(args.prompt if args.prompts is None else args.prompts.stem, args.seed)
    video.check_playback(args.fps, args.quality, path.suffix)
    video.check_resize(args.scale, args.filter)
    if args.sheet is not None and args.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet is {args.sheet}, expected a name that ends in .png")
    return video.check_output_path(path)


def default_path(prompt: str, seed: int) -> Path:
    """output/<the prompt's letters and digits>-<seed>.webp"""
    slug = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60] or "clip"
    return Path("output") / f"{slug}-{seed}.webp"


def describe(args: argparse.Namespace) -> dict:
    """The settings that go into the file: all that is needed to make it again."""
    names = ("prompt", "negative", "seed", "steps", "guidance", "frames", "width", "height", "sampler")
    settings = {name: getattr(args, name) for name in (*names, "fps", "scale", "filter", "freeu", "attention")}
    settings["negative_prompt"] = settings.pop("negative")
    timeline = _timeline(args)
    if timeline is not None:
        prompt, negative = timeline.prompts.split_negative()
        settings["prompt"] = prompt.to_json()
        if negative.texts != ("",):
            settings["negative_prompt"] = negative.to_json()
        if timeline.curves:
            settings["curves"] = timeline.to_json()["curves"]
    if args.dtype is not None:
        settings["dtype"] = args.dtype
    if args.float8:
        settings["float8"] = True
    return {
        **settings,
        "model": args.model.name if args.model else "bundled",
        "motion_lora": args.motion_lora,
        "allow_partial": args.allow_partial,
        "quality": args.quality,
        "windows": None if (windows := windows_of(args)) is None else [asdict(part) for part in windows],
        "noise": args.noise,
        "step_cache": None if (cache := _step_cache(args)) is None else cache.to_json(),
        "free_init": None if (free_init := free_init_of(args)) is None else asdict(free_init),
        "version": __version__,
    }


def _graphs(settings: dict, path: Path, quality: int | None = None) -> dict:
    """ComfyUI's graphs of a clip, that save it as a file of the same kind; empty where there are none."""
    from ..workflows.clip import clip_graph

    # Save Clip writes no folders of frames; a frame on the page then stands for the animation.
    kind = {"": "webp", ".png": "sheet"}.get(path.suffix.lower(), path.suffix.lower().removeprefix("."))
    graph = clip_graph(settings, kind, quality)
    return {} if graph is None else {"workflow": graph.workflow(), "prompt": graph.prompt()}


def load(args: argparse.Namespace, device: str | None) -> MotionPipeline:
    """The pipeline of the model that is asked for, with its LoRAs; on "meta" without weights, to check with."""
    import torch

    from ..lora.apply import apply_motion_lora
    from ..sampling import MotionPipeline
    from .device import choose_device

    place = "meta" if device == "meta" else choose_device(device)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    pipeline = MotionPipeline.bundled(device=place, dtype=dtype, path=args.model)
    if args.float8 and place != "meta":
        pipeline.unet.enable_float8_products(least_outputs=0)
    for path, strength in map(_lora, args.motion_lora):
        apply_motion_lora(pipeline.unet, path, strength, args.allow_partial)
    return pipeline


def left_out(pipeline: MotionPipeline) -> list[str]:
    """A sentence for each LoRA of which some layers do not fit the model."""
    from ..lora.apply import applied_loras

    return [
        f"{lora.name}: {len(lora.unmatched)} layers do not fit the model and are left out: {', '.join(lora.unmatched)}"
        for lora in applied_loras(pipeline.unet)
        if lora.unmatched
    ]


def unknown_words(pipeline: MotionPipeline, call: dict[str, Any]) -> list[str]:
    """Words of a call's prompts that the model does not know."""
    prompts = [call["prompt"], call["negative_prompt"]]
    return pipeline.unknown_words(" ".join(text for p in prompts for text in ([p] if isinstance(p, str) else p.texts)))


def words_said(pipeline: MotionPipeline, unknown: list[str]) -> list[str]:
    """One sentence on words that the model does not know, or none."""
    return [f"the model does not know {', '.join(unknown)}; {_known(pipeline, unknown)}"] if unknown else []


def _known(pipeline: Any, unknown: list[str]) -> str:
    """Some of the words that a model knows: those like the unknown ones first."""
    words = list(getattr(pipeline.tokenizer, "words", ()))
    like = [found for word in unknown for found in difflib.get_close_matches(word, words, 3, 0.6)]
    shown = list(dict.fromkeys([*like, *words]))[:SHOWN_WORDS]
    more = f" and {len(words) - len(shown)} more" if len(words) > len(shown) else ""
    return f"it knows {', '.join(shown)}{more}"


def _lora(text: str) -> tuple[str, float]:
    """NAME or FILE, or either with :STRENGTH; a colon inside the file's name, as of a drive, is no strength."""
    path, _, strength = text.rpartition(":")
    try:
        found = (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        found = text, 1.0
    return _bundled_lora(found[0]), found[1]


def _bundled_lora(name: str) -> str:
    """The file of a bundled LoRA's name, unless the name is that of something here."""
    from ..bundled import motion_lora_names, motion_lora_path

    if Path(name).expanduser().exists():
        return name
    if name not in motion_lora_names():
        names = ", ".join(motion_lora_names())
        raise FileNotFoundError(f"--motion-lora {name} does not exist, expected a file or a bundled LoRA ({names}).")
    return str(motion_lora_path(name))


def _options(args: argparse.Namespace):
    from ..forward.freeu import FreeU
    from ..forward.options import INHERIT, ForwardOptions

    freeu = FreeU(*args.freeu) if args.freeu else INHERIT
    return ForwardOptions(freeu=freeu, attn_processors=args.attention)


def _step_cache(args: argparse.Namespace):
    """The step cache that the options ask for, or None."""
    from ..sampling import StepCache

    if args.step_cache is None:
        return None
    try:
        return StepCache.parse(args.step_cache)
    except ValueError as error:
        raise ValueError(f"--step-cache: {error}") from None


def _freeu_factors(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if len(factors) != 4:
        raise argparse.ArgumentTypeError(f"found {quoted(text)}, expected four numbers such as 0.9,0.2,1.2,1.4")
    return factors
