"""``unet-motion inspect FILE``: what a file of weights is."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..files.errors import FileFormatError, shorten


def add_arguments(subparsers: Any) -> None:
    """Add the subcommand ``inspect``."""
    parser = subparsers.add_parser("inspect", help="tell what a model file is: kind, version, frames, dtype, odd keys")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file of weights, or a diffusers folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object per file, for programs")
    parser.set_defaults(run=run, func=run)


def run(args: argparse.Namespace) -> int:
    """Print what each file is, also behind one that cannot be read.

    Returns:
        0 if all can be loaded, 1 if one is of a kind or in a state that cannot be, 2 if one could not be read.
    """
    from ..formats.inspect import inspect_file

    status = 0
    for path in args.files:
        try:
            info = inspect_file(path)
        except (FileFormatError, OSError) as error:
            print(f"unet-motion inspect: error: {error}", file=sys.stderr)
            if args.json:
                print(json.dumps({"path": path, "loadable": False, "problem": str(error)}))
            status = 2
            continue
        print(json.dumps(info.to_dict()) if args.json else describe(info))
        status = max(status, 0 if info.loadable else 1)
    return status


def describe(info: Any) -> str:
    """Several lines for a reader."""
    from ..formats.infer.absent_blocks import name_blocks

    lines = [f"{info.path}: {info.description}" + (f", {info.version}" if info.version else "")]
    lines.append(f"  {info.tensors} tensors, {info.parameters / 1e6:.1f} M parameters, {info.dtype or 'no floats'}")
    if info.frames:
        lines.append(
            f"  up to {info.frames} frames; norm scopes: resnets {info.norm_scopes[0]}, motion {info.norm_scopes[1]}"
        )
    if info.recommended:
        beta, use = info.beta_schedule, info.recommended
        lines.append(
            f"  made for {info.base}; noise schedule {beta['comfyui']} in ComfyUI ({beta['diffusers']} in diffusers), "
            f"{beta['start']:g} to {beta['end']:g}; {use['frames']} frames, {use['sampler']}, {use['steps']} steps, "
            f"guidance {use['guidance']:g}"
        )
    if info.motion_blocks:
        lines.append(f"  motion in {name_blocks(info.motion_blocks)} only")
    widths = info.config.get("block_out_channels")
    if widths:
        text = info.config.get("cross_attention_dim")
        lines.append(f"  block widths {', '.join(map(str, widths))}" + (f"; text width {text}" if text else ""))
    if info.prefix:
        lines.append(f"  names start with {info.prefix}")
    for words in ("missing", "unexpected", "mismatched"):
        names = getattr(info, words)
        if names:
            shown = ", ".join(shorten(name) for name in names[:8])
            lines.append(f"  {len(names)} {words}: {shown}" + (", ..." if len(names) > 8 else ""))
    lines.append(f"  {info.problem}" if info.problem else f"  {'can' if info.loadable else 'cannot'} be loaded")
    return "\n".join(lines)
