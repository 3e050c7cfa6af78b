"""Options of `generate` for clips in windows: the windows, their noise, and FreeInit."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

from ..values import quoted

OF_WINDOWS = ("free_noise", "repeated")
"""Kinds of noise that say nothing without windows."""


def add_window_arguments(group) -> None:
    """Add the options of windows and of the first noise."""
    add = group.add_argument
    add("--window", type=int, metavar="FRAMES", help="frames of a window, such as 16 (default: no windows)")
    add("--overlap", type=int, metavar="FRAMES", help="that neighbouring windows share (default 4)")
    add("--stride", type=int, help="2, 3, ...: also windows of every second, fourth, ... frame (default 1)")
    add("--schedule", help="standard_uniform (default), standard_static, looped_uniform or batched")
    add("--fuse", help="weights: pyramid (default), flat, relative, overlap-linear or gaussian")
    add("--loop", action="store_true", help="the last frames lead back to the first; schedule looped_uniform")
    add("--loop-frames", type=int, metavar="N", help="of --loop: only so many frames at the end lead back to the first")
    add("--use-on-equal-length", action="store_true", help="also for a clip of just a window, as --loop does")
    add(
        "--window-part", action="append", default=[], metavar="START[-END]:NAME=VALUE,...",
        help="other settings of the windows for a part of the sampling, from 0 to 1, such as "
        "0.5:stride=2,fuse=flat or 0-0.3:views=on; may be given several times",
    )  # fmt: skip
    add("--views", action="store_true", help="windows inside the motion modules only: all else runs once a frame")
    add("--windows-at-once", type=int, default=1, metavar="N", help="in one call of the model (default 1)")
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "--noise", default="default", metavar="KIND[:WEIGHT],...",
        help="default, free_noise, repeated, constant, seed_per_frame or empty, or several with weights, such as "
        "default:1,constant:0.5",
    )  # fmt: skip
    one.add_argument(
        "--free-noise", dest="noise", action="store_const", const="free_noise", help="the same as --noise free_noise"
    )


def add_free_init_arguments(group) -> None:
    """Add the options of FreeInit."""
    add = group.add_argument
    add("--free-init", type=int, nargs="?", const=3, metavar="RUNS", help="how often to sample (default without it 1)")
    add("--free-init-filter", metavar="FILTER", help="butterworth (default), gaussian, ideal or box")
    add(
        "--free-init-stop", type=_stops, metavar="SPACE[,TIME]",
        help="up to which frequencies, as shares of the highest one, a run keeps the last one's result (default 0.25)",
    )  # fmt: skip
    add("--free-init-order", type=int, metavar="N", help="of butterworth; more is steeper (default 4)")
    add("--free-init-fast", action="store_true", help="fewer steps in the earlier runs")


def windows_of(args: argparse.Namespace):
    """The windows that the options ask for, part by part of the sampling, or None."""
    from ..sampling import ContextWindows, WindowPart

    if args.window is None:
        needing = {
            "--loop": args.loop, "--schedule": args.schedule, "--overlap": args.overlap, "--stride": args.stride,
            "--fuse": args.fuse, "--views": args.views, "--noise": any(kind in args.noise for kind in OF_WINDOWS),
            "--windows-at-once": args.windows_at_once != 1, "--loop-frames": args.loop_frames,
            "--use-on-equal-length": args.use_on_equal_length, "--window-part": args.window_part,
        }  # fmt: skip
        if given := [name for name, value in needing.items() if value or type(value) is int]:
            raise ValueError(f"{given[0]} needs --window, the frames of a window, such as --window 16")
        return None
    if args.window < 1:
        raise ValueError(f"--window is {args.window}, expected at least 1 frame")
    if args.loop_frames is not None and not args.loop:
        raise ValueError("--loop-frames needs --loop")
    if args.loop and args.frames < args.window:
        raise ValueError(f"--loop needs at least a window of frames, found --frames {args.frames}")
    schedule = args.schedule or ("looped_uniform" if args.loop else "standard_uniform")
    chosen = {name: getattr(args, name) for name in ("overlap", "stride", "fuse") if getattr(args, name) is not None}
    looped = {"closed_loop": args.loop, "loop_frames": args.loop_frames}
    equal = args.use_on_equal_length or args.loop
    windows = ContextWindows(args.window, schedule=schedule, **chosen, **looped, use_on_equal_length=equal)
    whole = WindowPart(windows, views=args.views)
    parts = [whole, *(_window_part(text, whole) for text in args.window_part)]
    if args.windows_at_once != 1 and all(part.views for part in parts):
        raise ValueError(f"--windows-at-once is {args.windows_at_once}, expected 1 with --views: these are one call")
    return parts


def _window_part(text: str, whole):
    """START[-END]:NAME=VALUE,...: the windows of the whole run with some settings changed, for a part of it."""
    span, _, changes = text.partition(":")
    start, _, end = span.partition("-")
    given = {}
    try:
        place = {"start": float(start), "end": float(end or 1)}
        if not changes.strip(", "):
            raise ValueError("no setting")
        for change in filter(None, changes.split(",")):
            name, _, value = (part.strip() for part in change.partition("="))
            before = whole.views if name == "views" else asdict(whole.windows)[name]
            given[name] = _as_before(before, value)
    except (ValueError, KeyError) as error:
        known = ", ".join([*asdict(whole.windows), "views"])
        raise ValueError(
            f"--window-part is {quoted(text)}, expected START[-END]:NAME=VALUE,... such as 0.5:stride=2; names are "
            f"{known}"
        ) from error
    views = given.pop("views", whole.views)
    return replace(whole, windows=replace(whole.windows, **given), views=views, **place)


def _as_before(before: Any, value: str) -> Any:
    """A value of the kind that a setting has: a word, on or off, or a whole number."""
    if isinstance(before, bool):
        return {"on": True, "true": True, "off": False, "false": False}[value]
    return value if isinstance(before, str) else int(value)


def noise_of(args: argparse.Namespace):
    """The mix of noises that the options ask for."""
    from ..sampling import NoiseMix

    return NoiseMix.parse(args.noise)


def free_init_of(args: argparse.Namespace):
    """The FreeInit that the options ask for, or None."""
    from ..sampling import FreeInit

    stops = args.free_init_stop
    chosen = {
        "filter": args.free_init_filter, "order": args.free_init_order, "fast": args.free_init_fast or None,
        "spatial_stop": stops and stops[0], "temporal_stop": stops and stops[-1],
    }  # fmt: skip
    given = {name: value for name, value in chosen.items() if value is not None}
    if args.free_init is None:
        if given:
            name = "stop" if stops else next(iter(given))
            raise ValueError(f"--free-init-{name} needs --free-init, the number of runs, such as --free-init 3")
        return None
    if args.free_init_order is not None and args.free_init_filter not in (None, "butterworth"):
        raise ValueError(f"--free-init-order is butterworth's, found --free-init-filter {args.free_init_filter}")
    return FreeInit(args.free_init, **given)


def _stops(text: str) -> tuple[float, ...]:
    try:
        stops = tuple(float(part) for part in text.split(","))
    except ValueError:
        stops = ()
    if len(stops) not in (1, 2):
        raise argparse.ArgumentTypeError(f"found {quoted(text)}, expected one or two numbers such as 0.25 or 0.25,0.5")
    return stops
