"""`unet-motion train motion-lora`: a folder of clips to a motion LoRA."""

from __future__ import annotations

import argparse
from pathlib import Path

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

ORIGINAL = "motion_lora.safetensors"
DIFFUSERS = "pytorch_lora_weights.safetensors"
SPATIAL_OUTPUT = "spatial_lora.safetensors"
DTYPES = ("float32", "float16", "bfloat16")


def add_arguments(what) -> None:
    """Add the parser of `train motion-lora`."""
    parser = what.add_parser(
        "motion-lora",
        help="train a motion LoRA on a folder of clips; all other weights stay as they are",
        description="Train a motion LoRA on a folder of clips that share a motion; all other weights stay as they are. "
        f"{RESUMES} OUT/{ORIGINAL} has AnimateDiff's names, OUT/{DIFFUSERS} those that diffusers' load_lora_weights "
        "and ComfyUI read; alpha / rank is multiplied into the weights.",
        epilog=DATA_HELP,
    )
    add_data_arguments(parser)
    add = parser.add_argument
    add("--motion", type=Path, metavar="FILE", help="motion modules under the LoRA (default: the base's)")
    add("--rank", type=int, default=4, metavar="N", help="columns of the LoRA's layers (default 4)")
    add("--alpha", type=float, metavar="N", help="the change counts alpha / rank times (default: the rank)")
    add("--projections", default="q,k,v,out", metavar="LIST", help="which layers of the motion modules: some of q, k, "
        "v, out, ff, proj (default q,k,v,out). AnimateDiff's form has no names for ff and proj")  # fmt: skip
    add("--blocks", default="", metavar="LIST", help="such as down_blocks.0,mid_block (default: all)")
    add("--spatial", action="store_true", help="MotionDirector's split: a second LoRA of the image layers learns from "
        f"single frames how the clips look, so that the first learns only how they move; written to OUT/"
        f"{SPATIAL_OUTPUT}")  # fmt: skip
    add("--debias", type=float, default=0.0, metavar="N", help="weight of MotionDirector's appearance-debiased loss, "
        "usually 1; 0 is off (default 0)")  # fmt: skip
    add("--dtype", choices=DTYPES, default="float32", help="of the files (default float32)")
    add_recipe_arguments(parser, steps=500)
    add_watch_arguments(parser)
    parser.set_defaults(run=run, func=run)


@alone
def run(args: argparse.Namespace) -> int:
    """Train or go on; 1 where a loss was not finite."""
    from ..training.base import load_base
    from ..training.lora import LoraSettings, TrainableLora
    from ..training.lora_trainer import LoraTrainer

    settings = LoraSettings(args.rank, args.alpha, _names(args.projections), _names(args.blocks), args.spatial)
    if not 0 <= args.debias < float("inf"):
        raise ValueError(f"`debias` is {args.debias}, expected at least 0.")
    base = load_base(args.base, args.motion)
    settings.check(base.unet)
    ready = prepare(args, base)
    lora = TrainableLora(base.unet, settings, ready.recipe.seed)
    trainer = LoraTrainer(
        lora, base.unet, ready.clips, ready.objective, ready.recipe, args.out, base.source, args.quiet,
        debias=args.debias, processes=ready.processes, watchers=watchers(args, ready),
    )  # fmt: skip
    status, good = train(trainer)
    if good:
        with trainer.averaged():
            _write(trainer, args)
    return status


def _write(trainer, args: argparse.Namespace) -> None:
    import torch

    from ..lora.saving import has_original_form, save_lora
    from ..training.lora import SPATIAL, TEMPORAL

    lora, dtype = trainer.lora, getattr(torch, args.dtype)
    layers = lora.tensors(TEMPORAL)
    facts = made(trainer, "a motion LoRA trained by unet-motion train motion-lora")
    files = {DIFFUSERS: ("diffusers", layers)}
    if has_original_form(layers):
        files = {ORIGINAL: ("original", layers), **files}
    if SPATIAL in lora.pairs:
        files[SPATIAL_OUTPUT] = ("diffusers", lora.tensors(SPATIAL))
    for name, (form, tensors) in files.items():
        save_lora(tensors, args.out / name, form, facts, dtype)
        print(f"wrote {args.out / name}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
