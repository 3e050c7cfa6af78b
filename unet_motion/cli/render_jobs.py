"""A file of jobs for `unet-motion render`: one JSON object a line, whose names are the options of `generate`."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from ..files.errors import one_line, shorten
from ..files.limits import parse_object
from . import generate
from .render_outputs import OUTPUTS, Taken, check_names, check_places, inside, outputs_of

NUMBERS = ("freeu", "free_init_stop")
"""Options of several numbers."""
LONGEST = 1200
"""Characters of a sentence on a line."""
OF_FREE_INIT = {
    "iterations": "free_init", "filter": "free_init_filter", "order": "free_init_order",
    "spatial_stop": "free_init_stop", "temporal_stop": "free_init_stop",
}  # fmt: skip


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
        return list(outputs_of(self.args).values())

    @property
    def model(self) -> tuple:
        """What is loaded for it."""
        args = self.args
        return args.model, tuple(args.motion_lora), args.allow_partial, args.dtype, args.float8


def read_jobs(path: Path, folder: Path, say: Callable[[str], None]) -> tuple[list[Job], list[str]]:
    """The jobs of a file, and a sentence for each line that is none; no weights are read for it.

    Args:
        folder: that the clips go to.
        say: takes what is no error: words that a model does not know, layers of LoRAs that do not fit.

    Raises:
        ValueError: the file holds no job, or cannot be read.
    """
    jobs: list[Job] = []
    wrong: list[str] = []
    taken = Taken(folder)
    parser = _parser()
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            job = Job(number, _args(parser, line))
            taken.claim(number, job.args)
            _check(job, folder, say)
            jobs.append(job)
        except Exception as error:
            wrong.append(f"line {number}: {in_words_of_a_line(error)}")
    if not jobs and not wrong:
        raise ValueError(f"{path} holds no jobs, expected a JSON object a line")
    return jobs, wrong


def in_words_of_a_line(error: Exception) -> str:
    """An error's sentence, with options as a line names them, and without what no screen has room for."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename} cannot be used ({error.strerror}), expected another file"
    elif not isinstance(error, (ValueError, OSError, ImportError)):
        text = f"{type(error).__name__}: {text}"
    options = {option for action in _parser()._actions for option in action.option_strings} - {"--device"}

    def named(found: re.Match) -> str:
        option, number = found[1], found[2] or ""
        name = f"`{option[2:].replace('-', '_')}`"
        return f"{name}{number and ':'}{number}" if option in options else found[0]

    text = re.sub(r"(?<![\w-])(--[a-z][a-z-]*)( \d+)?", named, text)
    # A value in quotes or a number: so FreeInit speaks, but no check of a line's `filter`, which is another one.
    text = re.sub(r"^`(\w+)`(?= is ['\d.in-])", lambda found: f"`{OF_FREE_INIT.get(found[1], found[1])}`", text)
    text = re.sub(r"\d{61,}", lambda found: shorten(found[0], 60), text)
    text = re.sub(r"\S{301,}", lambda found: shorten(found[0], 300), text)
    return text if len(text) <= LONGEST and text.isprintable() else one_line(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    generate.add_clip_arguments(parser)
    return parser


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}), expected a JSON object a line") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}), expected a file of JSON objects") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these names and values; a ValueError where a name is there twice."""
    counts = Counter(name.replace("-", "_") for name, _ in pairs)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"`{shorten(twice[0])}` is given twice, expected each name once")
    return dict(pairs)


def _args(parser: _Parser, line: str) -> argparse.Namespace:
    """The arguments of `generate` that a line means."""
    parse_object(line, "the job")
    content = json.loads(line, object_pairs_hook=_once)
    given = {name.replace("-", "_"): value for name, value in content.items()}
    for name, value in given.items():
        _check_text(name, value)
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
    check_names(args)
    return args


def _check_text(name: str, value: Any) -> None:
    """Raise ValueError for text that neither names of files nor their settings can hold."""
    texts = [name, *(value if isinstance(value, list) else [value])]
    if any(sign == "\0" or "\ud800" <= sign <= "\udfff" for text in texts if isinstance(text, str) for sign in text):
        found = shorten(json.dumps({name: value}))
        raise ValueError(f"it holds {found}, expected text without NUL and halves of characters (surrogates)")


def seed_of(given: dict[str, Any]) -> int:
    """The seed of a job that names none: 32 bits of the SHA-256 of all else that it says, but not of its names."""
    content = {name: value for name, value in given.items() if name not in (*OUTPUTS, "seed")}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _words(option: str, value: Any, options: dict[str, argparse.Action]) -> list[str]:
    """The words of a command line that say the same as an entry of a job."""
    action, name = options.get(option), option[2:].replace("-", "_")
    if action is None:
        known = ", ".join(["prompt", *(known[2:].replace("-", "_") for known in options)])
        raise ValueError(f"`{shorten(name)}` is not known, expected options of `unet-motion generate`: {known}")
    if option == "--device":
        raise ValueError("`device` is one for all jobs, expected it as `render --device`")
    if value is None or value is False:
        return []
    if value is True:
        if action.nargs not in (0, "?"):
            raise ValueError(f"`{name}` is true, expected a value")
        return [option]
    if action.nargs == 0:
        raise ValueError(f"`{name}` is {shorten(json.dumps(value))}, expected true or false")
    return [f"{option}={text}" for text in _texts(name, action, value)]


def _texts(name: str, action: argparse.Action, value: Any) -> list[str]:
    """A value as text; a list as one of texts for an option that may be repeated, or as numbers with commas."""
    found = f"`{name}` is {shorten(json.dumps(value))}, expected"
    repeated = isinstance(action, argparse._AppendAction)
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in several):
        raise ValueError(f"{found} text, a number or a list of them")
    texts = list(map(str, several))
    if repeated or not isinstance(value, list):
        return texts
    if action.dest not in NUMBERS:
        raise ValueError(f"{found} one value, not a list")
    if any(isinstance(item, str) for item in several):
        raise ValueError(f"{found} a list of numbers")
    return [",".join(texts)]


def _check(job: Job, folder: Path, say: Callable[[str], None]) -> None:
    """All that `generate` would refuse, before or while it draws."""
    args = job.args
    call = generate.call_arguments(args)
    outline = _outline(*job.model)
    outline.check(**call, progress=False)
    check_places(args, folder)
    generate.check_output(inside(args, folder))
    unknown = generate.unknown_words(outline, call)
    for line in [*generate.notes(args), *generate.left_out(outline), *generate.words_said(outline, unknown)]:
        say(f"line {job.line}: {line}")


@lru_cache(maxsize=8)
def _outline(
    model: Path | None, motion_lora: Sequence[str], allow_partial: bool, dtype: str | None, float8: bool
) -> Any:
    """The pipeline without its weights."""
    wanted = argparse.Namespace(
        model=model, motion_lora=list(motion_lora), allow_partial=allow_partial, dtype=dtype, float8=float8
    )
    return generate.load(wanted, "meta")
