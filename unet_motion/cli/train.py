"""The subcommands `train` and `evaluate`."""

import argparse
import json
import sys
from pathlib import Path


def add_arguments(subparsers) -> None:
    """Add both parsers to the command line; each sets `run`, a function of the parsed arguments."""
    from . import train_motion_lora as lora_cli
    from . import train_motion_module as motion_cli

    train = subparsers.add_parser("train", help="train motion modules or a LoRA on your clips, or the bundled model")
    what = train.add_subparsers(dest="what", metavar="WHAT", required=True)
    bundled = what.add_parser("bundled", help="make the bundled model from nothing: autoencoder, judge, images, motion")
    bundled.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/bundled"),
        help="where checkpoints, log and results go; a run that was stopped there goes on (default: %(default)s)",
    )
    bundled.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    bundled.add_argument(
        "--quick", action="store_true", help="a few steps of every stage, to try the code: no usable model"
    )
    bundled.set_defaults(run=run_train, func=run_train)
    motion_cli.add_arguments(what)
    lora_cli.add_arguments(what)
    camera = what.add_parser("camera-clips", help="draw what the bundled motion LoRAs were trained on")
    camera.add_argument("motion", metavar="MOTION", help="pan-left, pan-right, zoom-in or spin")
    camera.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    camera.add_argument("--count", type=int, default=192, help="number of clips (default: %(default)s)")
    camera.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    camera.set_defaults(run=run_camera, func=run_camera)
    _add_evaluate(subparsers)


def _add_evaluate(subparsers) -> None:
    evaluate = subparsers.add_parser("evaluate", help="measure what the bundled model draws")
    evaluate.add_argument("--model", type=Path, help="another file of the bundled model's format")
    evaluate.add_argument("--clips", type=int, default=200, help="number of clips (default: %(default)s)")
    evaluate.add_argument("--seed", type=int, default=1000, help="seed of the first clip (default: %(default)s)")
    evaluate.add_argument("--steps", type=int, default=20, help="sampling steps (default: %(default)s)")
    evaluate.add_argument("--guidance", type=float, default=3.0, help="weight of the prompt (default: %(default)s)")
    evaluate.add_argument("--sampler", default="ddim", help="sampler (default: %(default)s)")
    evaluate.add_argument("--bfloat16", action="store_true", help="compute in bfloat16: faster on CPUs made for it")
    evaluate.add_argument("--device", help="torch device to sample on (default: a CUDA device where there is one)")
    evaluate.add_argument("--sheet", type=Path, help="write a PNG with the first clips there")
    evaluate.add_argument("--motion-lora", metavar="NAME|FILE", help="measure instead how still shapes move under "
        "a motion LoRA, at five strengths")  # fmt: skip
    evaluate.add_argument("--json", action="store_true", help="print JSON and nothing else")
    evaluate.set_defaults(run=run_evaluate, func=run_evaluate)


def run_train(args: argparse.Namespace) -> int:
    """Run or resume the making of the bundled model; 1 where a stage misses its gate."""
    import torch

    from ..training.bundled_model.run import BundledRecipe, BundledRun, GateError
    from ..training.runs import RunLog

    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = BundledRecipe.quick() if args.quick else BundledRecipe()
    try:
        path = BundledRun(args.folder, recipe, RunLog(args.folder / "log.jsonl")).run()
    except GateError as error:
        print(f"unet-motion train: {error}", file=sys.stderr)
        return 1
    print(f"wrote {path}")
    return 0


def run_camera(args: argparse.Namespace) -> int:
    """Draw clips with a camera motion."""
    from ..training.bundled_model.camera_clips import write_camera_clips

    write_camera_clips(args.folder, args.motion, args.count, args.seed, quiet=False)
    print(f"wrote {args.folder}")
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure a model; prints a table, or JSON; 1 where a target is missed."""
    from ..bundled.parts import WEIGHTS, load_bundled
    from ..training.bundled_model.evaluate import SampleSettings, evaluate, missed_targets
    from ..training.bundled_model.export import load_judge
    from .device import choose_device

    if args.clips < 1 or args.steps < 1:
        raise ValueError(f"--clips is {args.clips} and --steps is {args.steps}; expected at least 1 each")
    settings = SampleSettings(args.steps, args.guidance, args.sampler, bfloat16=args.bfloat16)
    device = choose_device(args.device)
    if args.motion_lora:
        return _evaluate_lora(args, settings, device)
    figures = evaluate(
        load_bundled(device, path=args.model or WEIGHTS),
        load_judge(),
        args.clips,
        args.seed,
        settings,
        sheet=args.sheet,
        quiet=args.json,
    )
    missed = missed_targets(figures)
    print(json.dumps(figures | {"missed": missed}, indent=2) if args.json else table(figures, missed))
    return 1 if missed else 0


def _evaluate_lora(args: argparse.Namespace, settings, device) -> int:
    """Measure a motion LoRA; prints a row for each strength."""
    from ..bundled import motion_lora_names, motion_lora_path
    from ..bundled.parts import WEIGHTS, load_bundled
    from ..training.bundled_model.lora_figures import lora_figures

    own = args.motion_lora in motion_lora_names()
    lora = motion_lora_path(args.motion_lora) if own else args.motion_lora
    rows = lora_figures(
        load_bundled(device, path=args.model or WEIGHTS), lora, clips=args.clips, seed=args.seed, settings=settings
    )
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print("".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:14.2f}" for value in row.values()))
    return 0


def table(figures: dict, missed: list[str]) -> str:
    """The figures as lines for people."""
    from ..training.bundled_model.drawn_clips import MOTIONS
    from ..training.bundled_model.evaluate import TARGETS

    names = (
        "colour",
        "shape",
        "direction",
        "direction_measured",
        "moves",
        "still",
        "spinning",
        "growing",
        "shrinking",
        "motion",
        "least_motion",
        "whole_prompt",
        "whole_prompt_held_out",
        "held_out_less_seen",
        "same_shape_in_all_frames",
    )
    lines = [
        f"{figures['clips']} clips, seed {figures['seed']}, {figures['steps']} {figures['sampler']} steps, "
        f"guidance {figures['guidance']:g}"
    ]
    for name in names:
        value = figures[name]
        target = f"   target {TARGETS[name]:.0%}" if name in TARGETS else ""
        lines.append(f"  {name.replace('_', ' '):26} {'-' if value is None else f'{value:6.1%}'}{target}")
    lines.append("  asked (rows), judged (columns)")
    lines.append(" " * 12 + "".join(f"{name[:7]:>8}" for name in MOTIONS))
    lines += [
        f"  {name:10}" + "".join(f"{n:8}" for n in row) for name, row in zip(MOTIONS, figures["confusion"], strict=True)
    ]
    return "\n".join(lines + [f"missed: {sentence}" for sentence in missed])
