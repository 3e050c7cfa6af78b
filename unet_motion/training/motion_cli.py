"""`unet-motion train motion-module`: a folder of clips to a motion module."""

from __future__ import annotations

import argparse
from pathlib import Path

from .run_cli import (
    DATA_HELP,
    RESUMES,
    add_data_arguments,
    add_recipe_arguments,
    add_watch_arguments,
    made,
    prepare,
    train,
    watchers,
)

OUTPUT = "motion_module.safetensors"


def add_arguments(what) -> None:
    """Add the parser of `train motion-module`."""
    parser = what.add_parser(
        "motion-module",
        help="train motion modules on a folder of clips; the image weights stay as they are",
        description=f"Train motion modules on a folder of clips; the image weights stay as they are. {RESUMES} "
        "OUT/motion_module.safetensors is in AnimateDiff's own form.",
        epilog=DATA_HELP,
    )
    add_data_arguments(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--motion", type=Path, metavar="FILE", help="motion modules to start from (default: the base's)")
    start.add_argument("--new", action="store_true", help="start from new motion modules")
    add_recipe_arguments(parser)
    add_watch_arguments(parser)
    parser.set_defaults(run=run, func=run)


def run(args: argparse.Namespace) -> int:
    """Train or go on; 1 where a loss was not finite."""
    from ..formats.motion_saving import save_motion_file
    from .motion_base import load_base
    from .motion_loop import MotionTrainer

    base = load_base(args.base, args.motion, args.new, args.seed)
    ready = prepare(args, base)
    trainer = MotionTrainer(
        base.unet, ready.clips, ready.objective, ready.recipe, args.out, base.source, args.quiet,
        processes=ready.processes, watchers=watchers(args, ready),
    )  # fmt: skip
    status, good = train(trainer)
    if good:
        with trainer.averaged():
            save_motion_file(
                base.unet, args.out / OUTPUT, made(trainer, "motion modules trained by unet-motion train motion-module")
            )
        print(f"wrote {args.out / OUTPUT}")
    return status
