"""What is used where nothing is said: the same in the library, on the command line, in its help and in the nodes."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest

from unet_motion.cli import build_parser
from unet_motion.sampling import ContextWindows, FreeInit, ImageInjection, MotionPipeline
from unet_motion.sampling.step_cache import StepCache

NODES = json.loads((Path(__file__).parents[1] / "comfyui" / "object_info.json").read_text())


def of_node(name: str) -> dict:
    parts = NODES[f"UNetMotion_{name}"]["input"]
    return {key: words[1].get("default") for part in parts.values() for key, words in part.items()}


def of_class(kind) -> dict:
    return {field.name: field.default for field in dataclasses.fields(kind)}


# fields that the node chooses otherwise on purpose: it is there to cache, so it begins with a cache
OTHERWISE = {"interval": (1, 3), "layers": (0, 1)}


@pytest.mark.parametrize(
    ("kind", "node", "fields"),
    [
        (ContextWindows, "ContextWindows", 7),
        (FreeInit, "FreeInit", 6),
        (ImageInjection, "ImageInjection", 4),
        (StepCache, "StepCache", 8),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_nodes_begin_with_what_the_library_begins_with(kind, node, fields):
    ours, theirs = of_class(kind), of_node(node)
    both = {name for name in ours.keys() & theirs.keys() if ours[name] is not None and theirs[name] is not None}
    assert len(both) == fields, both
    for name in both:
        assert OTHERWISE.get(name, (ours[name], ours[name])) == (ours[name], theirs[name]), name


def test_a_clip_of_the_command_line_is_a_clip_of_the_library():
    args = vars(build_parser("generate").parse_args(["generate", "a red star"]))
    call = {name: p.default for name, p in inspect.signature(MotionPipeline.__call__).parameters.items()}
    both = {name for name in args.keys() & call.keys() if args[name] is not None and args[name] is not False}
    both.remove("prompt")
    assert both == {"seed", "steps", "guidance", "frames", "width", "height", "sampler", "noise", "windows_at_once"}
    for name in both:
        assert args[name] == call[name], name
    assert (args["scale"], args["filter"], args["fps"]) == (4, "lanczos", of_node("SaveClip")["fps"])


def test_the_help_says_the_defaults():
    """Of each option whose help gives a number or a word as its default."""
    _, choices = next((a.dest, a.choices) for a in build_parser("generate")._actions if isinstance(a.choices, dict))
    said = {}
    for action in choices["generate"]._actions:
        if found := re.search(r"\(default ([\w.]+)[,)]|(\w+) \(default\)", action.help or ""):
            said[action.dest] = (action.default, found[1] or found[2])
    windows, free_init = of_class(ContextWindows), of_class(FreeInit)
    where = {"overlap": windows, "stride": windows, "schedule": windows, "fuse": windows}
    for name, (default, word) in said.items():
        if default is None:  # left to the library
            short = name.removeprefix("free_init_")
            values = where.get(name) or (free_init if name.startswith("free_init_") else {})
            values = {**values, "stop": free_init["spatial_stop"]}
            if short not in values:
                continue
            default = values[short]
        assert str(default).removesuffix(".0") == word, name
    assert {
        "overlap",
        "stride",
        "schedule",
        "fuse",
        "free_init_order",
        "free_init_stop",
        "guidance",
        "seed",
    } <= said.keys()
