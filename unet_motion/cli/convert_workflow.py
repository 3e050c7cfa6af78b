"""``unet-motion convert-workflow FILE``: a graph of AnimateDiff-Evolved as one of this pack."""

from __future__ import annotations

import argparse
from typing import Any

LEFT = 3
"""Exit status where nodes are left without counterpart."""


def add_arguments(subparsers: Any) -> None:
    """Add the subcommand ``convert-workflow``."""
    parser = subparsers.add_parser(
        "convert-workflow",
        help="rewrite a ComfyUI workflow made with AnimateDiff-Evolved",
        description="Rewrite a ComfyUI workflow made with AnimateDiff-Evolved with the nodes of this pack and of "
        "ComfyUI: a file of the page stays one of the page, one of the API one of the API (also as the body that "
        "programs post, with the graph in `prompt`). Exit status: 0 when it was "
        "converted whole, 3 when nodes are left that have no counterpart, 2 when the file is no workflow.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a workflow: JSON, or a WebP, PNG, GIF, MP4 or WebM that holds one; it stays as it is",
    )
    parser.add_argument("--out", required=True, metavar="OUT.json", help="where the converted workflow goes")
    parser.add_argument("--report", metavar="REPORT.json", help="what became of each node, as JSON")
    parser.add_argument(
        "--replace-packs",
        action="store_true",
        help="also replace nodes of other packs that this pack and ComfyUI have counterparts for",
    )
    parser.set_defaults(run=run, func=run)


def run(args: argparse.Namespace) -> int:
    """Convert a file and say what was done.

    Returns:
        0 when it was converted whole, 3 when nodes are left.
    """
    from ..workflows.importer.files import convert_file
    from ..workflows.importer.table import OTHER_PACKS

    replaceable = OTHER_PACKS if args.replace_packs else ()
    report = convert_file(args.file, args.out, args.report, replaceable).report
    for entry in report.replaced:
        print(f"{entry.node} {entry.kind}: {', '.join(entry.by) or 'its values stand elsewhere now'}")
    for title, said in (("left", report.left), ("changed", report.changed), ("note", report.notes)):
        for line in said:
            print(f"{title}: {line.node} {line.kind}: {line.text}")
    print(f"{len(report.replaced)} nodes replaced, {len(report.left)} left; {args.out}")
    return 0 if report.is_whole else LEFT
