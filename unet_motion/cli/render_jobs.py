"""A file of jobs for `unet-motion render`: one JSON object a line, whose names are the options of `generate`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from ..files.errors import shorten
from ..files.limits import parse_object
from ..video import read_metadata
from . import generate

OUTPUTS = ("out", "sheet")


@dataclass(frozen=True)
class Job:
    """A clip to draw.

    Attributes:
        line: its number in the file, from 1.
        args: as `generate` has them; `out` and `sheet` are names inside the folder of all clips.
    """

    line: int
    args: argparse.Namespace

    @property
    def outputs(self) -> list[Path]:
        """The clip's name, and the sheet's where there is one."""
        return [self.args.out] if self.args.sheet is None else [self.args.out, self.args.sheet]

    @property
    def model(self) -> tuple:
        """What is loaded for it."""
        return self.args.model, tuple(self.args.motion_lora), self.args.allow_partial


def read_jobs(path: Path, folder: Path, say: Callable[[str], None]) -> tuple[list[Job], list[str]]:
    """The jobs of a file, and a sentence for each line that is none; no weights are read for it.

    Args:
        folder: that the clips go to.
        say: takes what is no error: words that a model does not know, layers of LoRAs that do not fit.

    Raises:
        ValueError: the file holds no job.
        OSError: it cannot be read.
    """
    jobs: list[Job] = []
    wrong: list[str] = []
    taken = _Taken()
    parser = _parser()
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(_text(lines, path), 1):
            if not line.strip():
                continue
            try:
                job = Job(number, _args(parser, line))
                taken.claim(job)
                _check(job, folder, say)
                jobs.append(job)
            except (ValueError, OSError, ImportError) as error:
                wrong.append(f"line {number}: {error}")
    if not jobs and not wrong:
        raise ValueError(f"{path} holds no jobs, expected a JSON object a line")
    return jobs, wrong


def is_finished(job: Job, folder: Path) -> bool:
    """Whether the job's files are there.

    Raises:
        ValueError: the clip is there, but of other settings, or of another maker.
    """
    if not all((folder / name).exists() for name in job.outputs):
        return False
    path = folder / job.args.out
    again = "expected a new name, or --overwrite"
    try:
        found = read_metadata(path)
    except (ValueError, OSError):
        raise ValueError(f"{path} is there and holds no settings of this program, {again}") from None
    wanted = json.loads(json.dumps(generate.describe(job.args)))
    # What an earlier version of this program drew is finished too.
    for name in wanted.keys() - {"version"}:
        if found.get(name) != wanted[name]:
            there, asked = (shorten(str(settings.get(name))) for settings in (found, wanted))
            raise ValueError(f"{path} is there with {name} {there}, but the line asks for {asked}: {again}")
    return True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    generate.add_clip_arguments(parser)
    return parser


def _text(lines: Iterable[str], path: Path) -> Iterable[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}), expected a JSON object a line") from error


def _args(parser: _Parser, line: str) -> argparse.Namespace:
    """The arguments of `generate` that a line means."""
    content = parse_object(line, "the job")
    given = {name.replace("-", "_"): value for name, value in content.items()}
    if len(given) < len(content):
        raise ValueError(f"the names {', '.join(content)} say an option twice, expected each once")
    prompt = given.get("prompt", "")
    if not isinstance(prompt, str):
        raise ValueError(f"`prompt` is {shorten(json.dumps(prompt))}, expected a text")
    options = {option: action for action in parser._actions for option in action.option_strings}
    words = [
        word
        for name, value in given.items()
        if name != "prompt"
        for word in _words(f"--{name.replace('_', '-')}", value, options)
    ]
    args = parser.parse_args([*words, *(["--", prompt] if "prompt" in given else [])])
    if given.get("seed") is None:
        args.seed = seed_of(given)
    name = args.prompt if args.prompts is None else args.prompts.stem
    args.out = args.out or Path(generate.default_path(name, args.seed).name)
    for name in OUTPUTS:
        _check_inside(name, getattr(args, name))
    return args


def seed_of(given: dict[str, Any]) -> int:
    """The seed of a job that names none: 32 bits of the SHA-256 of all else that it says, but not of its names."""
    content = {name: value for name, value in given.items() if name not in (*OUTPUTS, "seed")}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _words(option: str, value: Any, options: dict[str, argparse.Action]) -> list[str]:
    """The words of a command line that say the same as an entry of a job."""
    action = options.get(option)
    if action is None:
        known = ", ".join(["prompt", *(name.removeprefix("--").replace("-", "_") for name in options)])
        raise ValueError(f"`{option[2:]}` is not known, expected options of `unet-motion generate`: {known}")
    if option == "--device":
        raise ValueError("`device` is one for all jobs, expected it as `render --device`")
    if value is None or value is False:
        return []
    if value is True:
        if action.nargs not in (0, "?"):
            raise ValueError(f"`{option[2:]}` is true, expected a value")
        return [option]
    if action.nargs == 0:
        raise ValueError(f"`{option[2:]}` is {shorten(json.dumps(value))}, expected true or false")
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in several):
        raise ValueError(f"`{option[2:]}` is {shorten(json.dumps(value))}, expected text, a number or a list of them")
    texts = list(map(str, several))
    # A list is a repeated option where there is one, such as --motion-lora, else numbers with commas, such as --freeu.
    repeated = isinstance(action, argparse._AppendAction)
    return [f"{option}={text}" for text in (texts if repeated else [",".join(texts)])]


def _check_inside(name: str, path: Path | None) -> None:
    if path is not None and (path.is_absolute() or path.drive or ".." in path.parts or not path.name):
        raise ValueError(f"`{name}` is {str(path)!r}, expected a name inside the folder of --out")


class _Taken:
    """What the jobs so far write."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.folders: dict[str, int] = {}

    def claim(self, job: Job) -> None:
        """Note what a job writes; a ValueError where another one writes it, or one of the two lies in the other."""
        if len(set(map(_spelled, job.outputs))) < len(job.outputs):
            raise ValueError(f"`out` and `sheet` are both {job.args.out}, expected two names")
        for path in job.outputs:
            name, *parents = map(_spelled, (path, *path.parents))
            other = next((self.files[place] for place in (name, *parents) if place in self.files), None)
            other = self.folders.get(name, other)
            if other is not None:
                raise ValueError(f"it writes {path}, as line {other} does: expected an `out` of its own")
        for path in job.outputs:
            self.files[_spelled(path)] = job.line
            self.folders.update({_spelled(parent): job.line for parent in path.parents})


def _spelled(path: Path) -> str:
    return os.path.normcase(path)


def _check(job: Job, folder: Path, say: Callable[[str], None]) -> None:
    """All that `generate` would refuse, before or while it draws."""
    args = job.args
    generate.check_output(inside(args, folder))
    call = generate.call_arguments(args)
    outline = _outline(*job.model)
    outline.check(**call, progress=False)
    unknown = generate.unknown_words(outline, call)
    for line in [*generate.notes(args), *generate.left_out(outline), *generate.words_said(outline, unknown)]:
        say(f"line {job.line}: {line}")


def inside(args: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The arguments with their outputs in a folder."""
    moved = {name: folder / path for name in OUTPUTS if (path := getattr(args, name)) is not None}
    return argparse.Namespace(**{**vars(args), **moved})


@lru_cache(maxsize=8)
def _outline(model: Path | None, motion_lora: Sequence[str], allow_partial: bool) -> Any:
    """The pipeline without its weights."""
    wanted = argparse.Namespace(model=model, motion_lora=list(motion_lora), allow_partial=allow_partial)
    return generate.load(wanted, "meta")
