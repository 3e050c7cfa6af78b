"""`unet-motion train motion-module`: a folder of clips to a motion module."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from .motion_recipe import SCHEDULES, MotionRecipe

OUTPUT = "motion_module.safetensors"
DEFAULTS = MotionRecipe()
# Option -> (field of the recipe, its type, help).
NUMBERS = {
    "--steps": ("steps", int, "steps of the optimizer"),
    "--batch": ("batch", int, "clips in a forward pass"),
    "--accumulate": ("accumulate", int, "passes whose mean gradient makes a step"),
    "--lr": ("learning_rate", float, "highest learning rate"),
    "--warmup": ("warmup", int, "steps in which the learning rate rises"),
    "--weight-decay": ("weight_decay", float, "of AdamW"),
    "--clip": ("clip", float, "largest norm of the gradient; 0 does not clip"),
    "--ema": ("ema", float, "decay of averaged weights, which are then written; 0 is off"),
    "--min-snr": ("min_snr", float, "gamma of the min-SNR weights, usually 5; 0 is off"),
    "--noise-offset": ("noise_offset", float, "noise that is one number for a channel of a clip; 0 is off"),
    "--drop-prompt": ("drop_prompt", float, "share of clips that are seen without their prompt"),
    "--seed": ("seed", int, "of new modules and of all draws"),
    "--save-every": ("save_every", int, "steps between checkpoints"),
    "--log-every": ("log_every", int, "steps between lines on the console"),
}


def add_arguments(what) -> None:
    """Add the parser of `train motion-module`."""
    parser = what.add_parser(
        "motion-module",
        help="train motion modules on a folder of clips; the image weights stay as they are",
        description="Train motion modules on a folder of clips; the image weights stay as they are. A run that was "
        "stopped goes on from its last checkpoint when the same command is given again, and ends with the same "
        "weights. OUT/motion_module.safetensors is in AnimateDiff's own form.",
        epilog="Videos are read for a base of the bundled form only, since its text encoder and autoencoder come with "
        "it. This package has no CLIP and no VAE of Stable Diffusion: for any other UNet DATA is a folder of encoded "
        "clips, .safetensors files with `latents` (F, C, h, w) as the UNet takes them and `text` (T, D), for SDXL also "
        "`text_embeds` and `time_ids`; empty.safetensors holds the texts of the empty prompt.",
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of videos, GIFs, WebPs or folders of frames, captions in .txt "
        "files beside them or in metadata.jsonl; or of encoded clips, see below")  # fmt: skip
    add("--base", default="bundled", metavar="FILE|bundled", help="the UNet (default: bundled)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--motion", type=Path, metavar="FILE", help="motion modules to start from (default: the base's)")
    start.add_argument("--new", action="store_true", help="start from new motion modules")
    add("--out", type=Path, required=True, metavar="DIR", help="where checkpoint, losses and result go")
    add("--cache", type=Path, metavar="DIR", help="where encoded clips are kept (default: cache in --out)")
    add("--frames", type=int, default=16, help="frames of a clip (default 16)")
    add("--fps", type=float, help="frames a second that are taken of videos (default: all)")
    add("--stride", type=int, help="every which of them is kept (default 1)")
    add("--size", type=_size, action="append", metavar="WxH", help="pixels, multiples of 8 (default 64x64); given "
        "several times, each clip gets the one nearest to its shape")  # fmt: skip
    add("--flip", action="store_true", help="mirror half of the clips; not where captions name directions")
    for option, (name, kind, text) in NUMBERS.items():
        value = getattr(DEFAULTS, name)
        add(option, dest=name, type=kind, default=value, metavar="N", help=f"{text} (default {value:g})")
    add("--schedule", choices=SCHEDULES, default=DEFAULTS.schedule, help="of the learning rate (default cosine)")
    add("--prediction", choices=("epsilon", "v_prediction"), help="what the UNet gives (default: as the base says)")
    add("--beta-schedule", choices=("linear", "scaled_linear"), help="of the noise (default: as the base says, or "
        "linear)")  # fmt: skip
    add("--beta-end", type=float, help="last beta of the noise (default: as the base says, or 0.012)")
    add("--checkpointing", action="store_true", help="less memory, more time, the same result")
    add("--bfloat16", action="store_true", help="compute in bfloat16; weights and optimizer stay in float32")
    add("--device", default="cpu", help="torch device, such as cpu or cuda (default cpu)")
    add("--quiet", action="store_true", help="print only what was written")
    parser.set_defaults(run=run, func=run)


def run(args: argparse.Namespace) -> int:
    """Train or go on; 1 where a loss was not finite."""
    import torch

    from ..cli_generate import check_device
    from ..formats.motion_saving import save_motion_file
    from .motion_base import load_base, noise_schedule, read_data
    from .motion_loop import MotionTrainer
    from .objective import Objective

    recipe = MotionRecipe(**{f.name: getattr(args, f.name) for f in dataclasses.fields(MotionRecipe)})
    check_device(args.device)
    base = load_base(args.base, args.motion, args.new, recipe.seed)
    options = _options(args, base.parts is not None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        clips = read_data(base, args.data, options, args.cache or args.out / "cache")
    for warning in caught:
        print(f"unet-motion train: {warning.message}", file=sys.stderr)
    schedule = noise_schedule(base, betas=args.beta_schedule, end=args.beta_end, prediction=args.prediction)
    objective = Objective(schedule, recipe.min_snr, recipe.noise_offset)
    base.unet.to(torch.device(args.device))
    trainer = MotionTrainer(base.unet, clips, objective, recipe, args.out, base.source, args.quiet)
    status = 0
    try:
        trainer.run()
    except FloatingPointError as error:
        print(f"unet-motion train: {error}", file=sys.stderr)
        status = 1
        if not trainer.path.exists():
            return status
    with trainer.averaged():
        save_motion_file(base.unet, args.out / OUTPUT, _made(trainer))
    print(f"wrote {args.out / OUTPUT}")
    return status


def _made(trainer) -> dict[str, Any]:
    """What the file says of its training."""
    from .. import __version__

    identity = dict(trainer.identity)
    return {
        "what": "motion modules trained by unet-motion train motion-module",
        "from": json.loads(identity.pop("base")),
        "how": identity | {"trained_steps": trainer.step, "clips": len(trainer.clips)},
        "version": __version__,
    }


def _options(args: argparse.Namespace, watched: bool):
    from .clips import ClipOptions

    given = {"fps": args.fps, "stride": args.stride, "size": args.size, "flip": args.flip}
    if not watched and (extra := [f"--{name}" for name, value in given.items() if value]):
        raise ValueError(f"{', '.join(extra)}: only for videos and pictures, but {args.base} takes encoded clips.")
    buckets = tuple(args.size or [(64, 64)])
    return ClipOptions(args.frames, args.fps, 1 if args.stride is None else args.stride, buckets, args.flip)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected pixels such as 64x64")
    return int(width), int(height)
