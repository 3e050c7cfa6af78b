"""The subcommand `kernels`."""

from __future__ import annotations

import argparse
import json

import torch

from ..ops.mode import MODES, current_mode, use
from ..ops.report import report

DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}


def add_arguments(subparsers) -> None:
    """Add the parser of `kernels`."""
    parser = subparsers.add_parser(
        "kernels", help="tell which code each operation runs on this machine, and why not a faster one"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …; default: the GPU where there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="of the activations; default: float16 on a GPU, else float32")
    parser.add_argument("--mode", choices=MODES, help="answer as if these kernels were asked for")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the report."""
    with use(args.mode or current_mode()):
        found = report(args.device or None, DTYPES.get(args.dtype))
    print(json.dumps(found.as_dict(), indent=2) if args.json else found)
