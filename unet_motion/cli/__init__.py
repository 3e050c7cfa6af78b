"""The command line: one parser, and one module for each subcommand, imported only when it is called.

A subcommand's module has `add_arguments(subparsers)`, which adds its parser and sets `run`, a function of the parsed
arguments that returns an exit status or None.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__

COMMANDS = {
    "generate": (".generate", "make a clip from a prompt: animated WebP, GIF, MP4, or PNG frames"),
    "render": (".render", "many clips from a file of jobs, on several cards or machines"),
    "inspect": (".inspect", "tell what a model file is: kind, version, frames, dtype, odd keys"),
    "convert": (".convert", "write a UNet or motion modules under other names, bit for bit"),
    "merge": (".convert", "mix motion modules, or scale them block by block"),
    "convert-workflow": (".convert_workflow", "rewrite a ComfyUI workflow made with AnimateDiff-Evolved"),
    "train": (".train", "train motion modules or a LoRA on your clips, or the bundled model"),
    "evaluate": (".train", "measure what the bundled model draws"),
    "bench": (".bench", "time this UNet beside diffusers' with the same weights"),
    "kernels": (".kernels", "tell which code each operation runs on this machine, and why not a faster one"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted, 141 when not read on."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _keep_output_printable()
    # Read by torch at its import: large tensors on a CPU lie in huge pages, where the system allows it.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Only the subcommand that is called is imported, so that --help does not wait for torch.
    called = next((word for word in argv if not word.startswith("-")), None)
    args = build_parser(called).parse_args(argv)
    try:
        status = int(args.run(args) or 0)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever reads the output has seen enough. What is left of it must not be an error when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError) as error:
        print(f"unet-motion {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"unet-motion {args.command}: interrupted", file=sys.stderr)
        return 130


def _keep_output_printable() -> None:
    """Let a terminal without Unicode show a sign that it lacks as \\u2026 instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def build_parser(called: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of the subcommand `called` and only the names of the others."""
    parser = argparse.ArgumentParser(
        prog="unet-motion", description="A motion UNet: clips from prompts, and tools for its model files."
    )
    parser.add_argument("--version", action="version", version=f"unet-motion {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    module = importlib.import_module(COMMANDS[called][0], __package__) if called in COMMANDS else None
    if module is not None:
        module.add_arguments(subparsers)
    for name, (_, text) in COMMANDS.items():
        if name not in subparsers.choices:
            subparsers.add_parser(name, help=text)
    return parser
