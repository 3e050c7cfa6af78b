"""`unet-motion train motion-module`: a folder of clips to a motion module."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.provenance import made
from .train_run import (
    DATA_HELP,
    RESUMES,
    add_data_arguments,
    add_recipe_arguments,
    add_watch_arguments,
    alone,
    prepare,
    train,
    watchers,
)

if TYPE_CHECKING:
    from ..model.unet_motion_model import UNetMotionModel

OUTPUT = "motion_module.safetensors"
WHAT = "motion modules trained by unet-motion train motion-module"
FORMS = {"original": OUTPUT, "adapter": "motion_adapter", "unet": "unet"}
"""Forms of the result -> their file or folder in --out."""


def add_arguments(what) -> None:
    """Add the parser of `train motion-module`."""
    parser = what.add_parser(
        "motion-module",
        help="train motion modules on a folder of clips; the image weights stay as they are",
        description=f"Train motion modules on a folder of clips; the image weights stay as they are. {RESUMES} "
        "OUT/motion_module.safetensors is in AnimateDiff's own form; --form writes others.",
        epilog=DATA_HELP,
    )
    add_data_arguments(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--motion", type=Path, metavar="FILE", help="motion modules to start from (default: the base's)")
    start.add_argument("--new", action="store_true", help="start from new motion modules")
    add = parser.add_argument
    add("--cross-attention", action="store_true", help="the image layers' attention to the text trains too; only the "
        "form unet can hold it, and is written then")  # fmt: skip
    add("--form", choices=tuple(FORMS), action="append", help="original: one file with AnimateDiff's names; adapter: "
        "diffusers' folder of a MotionAdapter; unet: its folder of the whole UNetMotionModel; may be given several "
        "times (default original)")  # fmt: skip
    add_recipe_arguments(parser)
    add_watch_arguments(parser)
    parser.set_defaults(run=run, func=run)


@alone
def run(args: argparse.Namespace) -> int:
    """Train or go on; 1 where a loss was not finite."""
    from ..training.base import load_base
    from ..training.trainer import MotionTrainer, trained_parameters

    base = load_base(args.base, args.motion, args.new, args.seed)
    ready = prepare(args, base)
    trained = trained_parameters(base.unet, args.cross_attention)
    trainer = MotionTrainer(
        base.unet, ready.clips, ready.objective, ready.recipe, args.out, base.source, args.quiet, trained=trained,
        more={"cross_attention": args.cross_attention}, processes=ready.processes, watchers=watchers(args, ready),
    )  # fmt: skip
    status, good = train(trainer)
    if good:
        with trainer.averaged():
            for form in forms(args.form, args.cross_attention):
                write_form(base.unet, args.out / FORMS[form], form, made(trainer, WHAT))
                print(f"wrote {args.out / FORMS[form]}")
    return status


def forms(chosen: list[str] | None, cross_attention: bool) -> list[str]:
    """What is written, in the order of `FORMS`."""
    wanted = set(chosen or ["original"]) | ({"unet"} if cross_attention else set())
    return [form for form in FORMS if form in wanted]


def write_form(unet: UNetMotionModel, path: Path, form: str, facts: dict[str, Any]) -> None:
    """Write the trained weights in one form; a folder gets a `training.json` beside its config.json."""
    from ..files.atomic import atomic_file
    from ..formats.save_motion_module import save_motion_file

    if form == "original":
        save_motion_file(unet, path, facts)
        return
    if form == "adapter":
        unet.save_motion_modules(path)
    else:
        unet.save_pretrained(path)
    with atomic_file(path / "training.json") as part:
        part.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
