"""``unet-motion convert`` and ``unet-motion merge``: files of weights in another form, mixed, and scaled."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_arguments(subparsers: Any) -> None:
    """Add the subcommands ``convert`` and ``merge``."""
    parser = subparsers.add_parser("convert", help="write a UNet or motion modules under other names, bit for bit")
    parser.add_argument("file", type=Path, help="a file of weights, or a diffusers folder")
    parser.add_argument("out", type=Path, help="a file that ends in .safetensors, or a folder")
    parser.add_argument(
        "--to", required=True, choices=("original", "hotshot", "diffusers", "folder"), dest="form",
        help="original: AnimateDiff's and Stable Diffusion's names; hotshot: HotshotXL's; diffusers: its names in one "
        "file; folder: its folder with config.json",
    )  # fmt: skip
    parser.add_argument("--prefix", default="", help="put before every name of a single file")
    parser.set_defaults(run=run_convert)
    parser = subparsers.add_parser("merge", help="mix motion modules, or scale them block by block")
    parser.add_argument(
        "files", nargs="+", metavar="FILE[:WEIGHT]", help="motion modules with weights, such as a.ckpt:0.7"
    )
    parser.add_argument("--out", type=Path, required=True, help="a file that ends in .safetensors")
    parser.add_argument(
        "--block",
        action="append",
        default=[],
        metavar="NAME=W,W",
        help="other weights for a block: up_blocks.1=0.2,0.8",
    )
    parser.add_argument(
        "--scale", action="append", default=[], metavar="NAME=FACTOR", help="how much a block moves: mid_block=0.5"
    )
    parser.set_defaults(run=run_merge)


def run_convert(args: argparse.Namespace) -> int:
    """Convert; says on standard error what was left out."""
    from ..formats.convert import convert, name_left_out

    left = convert(args.file, args.out, args.form, args.prefix)
    if left:
        print(f"unet-motion convert: {name_left_out(args.file, left)}", file=sys.stderr)
    print(args.out)
    return 0


def run_merge(args: argparse.Namespace) -> int:
    """Merge and scale; the result has AnimateDiff's names."""
    from ..formats.load_motion_module import load_motion_module
    from ..formats.merging import merge_motion_modules, parse_blocks, scale_blocks
    from ..formats.save_motion_module import save_merged

    if args.out.suffix != ".safetensors":
        raise ValueError(f"--out is {args.out}, expected a name that ends in .safetensors")
    pairs = [_weighted(text) for text in args.files]
    blocks, scales = parse_blocks(args.block), {name: numbers[0] for name, numbers in parse_blocks(args.scale).items()}
    modules = [load_motion_module(path) for path, _ in pairs]
    merged = merge_motion_modules(modules, [weight for _, weight in pairs], blocks)
    save_merged(scale_blocks(merged, scales), args.out)
    print(args.out)
    return 0


def _weighted(text: str) -> tuple[str, float]:
    path, _, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
