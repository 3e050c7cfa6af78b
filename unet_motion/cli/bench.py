"""``unet-motion bench``: this project beside diffusers and AnimateDiff-Evolved, on this machine."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..values import quoted

DTYPES = ("float32", "float16", "bfloat16")


def add_arguments(subparsers: Any) -> None:
    """Add the subcommand ``bench``."""
    parser = subparsers.add_parser("bench", help="time this UNet beside others with the same weights")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="some of the cases only; --list names them")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, float16 on a GPU")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: torch's)")
    parser.add_argument("--rounds", type=int, help="timed rounds of each comparison (default: 3 on a CPU, 7 on a GPU)")
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction,
        help="compare with torch.compile of diffusers too, on a GPU in its faster mode (default: on a GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--comfyui", type=Path, metavar="FOLDER", help="ComfyUI for AnimateDiff-Evolved (default: COMFYUI_PATH)"
    )
    parser.add_argument(
        "--evolved", type=Path, metavar="FOLDER",
        help="AnimateDiff-Evolved (default: in UNET_MOTION_PACKS, then in ComfyUI's custom_nodes)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the JSON and the table there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    card = parser.add_argument_group("on a graphics card, all at once")
    card.add_argument("--card", action="store_true", help="check, time, profile and tune on a card; CASE names stages")
    card.add_argument(
        "--count", action="store_true",
        help="without a card: launches, bytes and arithmetic of an SD1.5 step as counted from the code, and stop",
    )  # fmt: skip
    card.add_argument("--rehearse", action="store_true", help="with --card: all of it without a card, tiny, on the CPU")
    card.add_argument("--budget", type=float, metavar="SECONDS", help="with --card: for all stages (default: 450)")
    card.add_argument("--wheels", type=Path, metavar="FOLDER", help="with --card: wheels of what is not installed")
    parser.set_defaults(run=run)


def _need_diffusers() -> None:
    try:
        importlib.import_module("diffusers")
    except ImportError as error:
        raise ImportError("the benchmark compares with diffusers; `pip install diffusers` adds it") from error


def measure_cases(bench: Any, cases: dict[str, Any]) -> tuple[Any, list, list[str]]:
    """The bench with the best ceilings seen, the rows of the cases, and a sentence for each that is left out."""
    from ..bench.cases import NotMeasured
    from ..bench.measure import ceilings
    from ..bench.report import cells

    rows, left_out = [], []
    for name, case in cases.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            measured = case(bench)
        except NotMeasured as reason:
            left_out.append(f"{name} is left out: {reason}.")
            print(f"  {left_out[-1]}", file=sys.stderr, flush=True)
            continue
        bench = replace(bench, ceilings=bench.ceilings.best(ceilings(bench.device, bench.dtype)))
        for row in measured:
            print("  " + " | ".join(cells(row, bench.ceilings)), file=sys.stderr, flush=True)
            rows.append(row)
    return bench, rows, left_out


def run(args: argparse.Namespace) -> int:
    """Run the cases; 1 if two outputs differed, so that no ratio could be given."""
    if args.card or args.count:
        return run_on_card(args) if args.card else print_count()
    for name in ("rehearse", "budget", "wheels"):
        if getattr(args, name):
            raise ValueError(f"--{name} goes with --card")
    import torch

    from ..bench.cases import Bench
    from ..bench.catalogue import CPU_CASES, GPU_CASES
    from ..bench.measure import ceilings
    from ..bench.report import describe, markdown, write

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cases = GPU_CASES if device.type == "cuda" else CPU_CASES
    if args.list:
        print("\n".join(cases))
        return 0
    unknown = sorted(set(args.cases) - set(cases))
    if unknown:
        raise ValueError(f"case {quoted(unknown[0])} is unknown; expected some of {', '.join(cases)}")
    rounds = (7 if device.type == "cuda" else 3) if args.rounds is None else args.rounds
    if rounds < 1:
        raise ValueError(f"--rounds is {rounds}; expected at least 1")
    _need_diffusers()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype or ("float16" if device.type == "cuda" else "float32"))
    compiled = device.type == "cuda" if args.compiled is None else args.compiled
    bench = Bench(device, dtype, ceilings(device, dtype), rounds, compiled, args.comfyui, args.evolved)
    bench, rows, left_out = measure_cases(bench, {name: cases[name] for name in args.cases or cases})
    about = describe(bench) | ({"not measured": " ".join(left_out)} if left_out else {})
    whole = json.dumps({"about": about, "rows": [asdict(row) for row in rows]}) if args.json else None
    print(whole or markdown(about, rows, bench.ceilings))
    if args.out:
        print(f"written: {write(args.out, about, rows, bench.ceilings)}", file=sys.stderr)
    return int(any(row.ours != row.ours for row in rows))


def print_count() -> int:
    from ..bench.card.count import report

    print(report())
    return 0


def run_on_card(args: argparse.Namespace) -> int:
    """All that a card must prove; 1 if a stage failed."""
    begun = time.monotonic()
    if args.wheels:
        from ..bench.card.wheels import add_wheels

        print(f"from wheels: {', '.join(add_wheels(args.wheels)) or 'nothing, all is installed'}", file=sys.stderr)
    if args.rehearse:
        if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError("--rehearse needs Triton's interpreter, and Triton was imported without it")
        os.environ.update(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")  # the second for processes of this one
    from ..bench.card.run import STAGES, run_card

    if args.list:
        print("\n".join(stage.name for stage in STAGES))
        return 0
    budget = args.budget if args.budget is not None else 450.0
    return run_card(args.cases, args.rehearse, budget, args.out or Path("output"), args.comfyui, begun)
