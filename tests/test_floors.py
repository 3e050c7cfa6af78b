"""Imports run downwards only and in no circle, and the network asks nothing about the machine.

Imports inside functions count; those of optional packages do not.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up. A file imports from its own room and from lower floors, never from beside or above.
FLOORS = (
    ("values",),
    ("unet_motion", "progress", "config", "ops", "schedule"),
    ("files", "forward"),
    ("model",),
    ("formats", "bundled", "control"),
    ("lora",),
    ("kernels", "runtime", "video", "diffusers"),
    ("sampling", "workflows"),
    ("training",),
    ("bench", "nodes"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for root in ("unet_motion", "nodes") for path in sorted((ROOT / root).rglob("*.py"))}


def room(name: str) -> str:
    """A folder or file of `unet_motion`, that package itself, or the nodes, which are one room."""
    parts = name.split(".")
    return parts[1] if parts[0] == "unet_motion" and len(parts) > 1 else parts[0]


def imports_of(name: str) -> set[str]:
    """Names of the project's files that a file imports, at its top or in its functions."""
    package = MODULES[name].relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ())]
        for alias in node.names:
            choices = ".".join([*base, alias.name]), ".".join(base)
            found.add(next(choice for choice in choices if choice in MODULES))
    return found


IMPORTS = {name: imports_of(name) for name in MODULES}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The groups that reach each other (Tarjan, 1972)."""
    numbers, lows, stack, found = {}, {}, [], []

    def visit(name):
        numbers[name] = lows[name] = len(numbers)
        stack.append(name)
        for other in arrows[name]:
            if other not in numbers:
                visit(other)
            if other in stack:
                lows[name] = min(lows[name], lows[other])
        if lows[name] == numbers[name]:
            group = stack[stack.index(name) :]
            del stack[-len(group) :]
            if len(group) > 1 or name in arrows[name]:
                found.append(sorted(group))

    for name in arrows:
        if name not in numbers:
            visit(name)
    return found


def test_circles_are_found():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert circles(arrows) == [["b", "c"], ["e"]]


def test_every_room_has_a_floor_and_every_floor_is_lived_in():
    assert {room(name) for name in MODULES} == FLOOR.keys()


def test_no_file_is_in_a_circle():
    assert circles(IMPORTS) == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name):
    here = room(name)
    assert {other for other in IMPORTS[name] if room(other) != here and FLOOR[room(other)] >= FLOOR[here]} == set()


def test_the_library_imports_no_node():
    users = {name for name, others in IMPORTS.items() if any(room(other) == "nodes" for other in others)}
    assert {room(name) for name in users} == {"nodes"}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "model"])
def test_the_network_asks_nothing_about_devices_compilation_gradients_hooks_or_triton(name):
    """Which code runs is chosen in `ops/`; the network reads like the figure."""
    questions = r"device\.type|is_compiling|is_grad_enabled|_forward_hooks|_forward_pre_hooks|[Tt]riton"
    assert re.findall(questions, MODULES[name].read_text()) == []


def test_few_functions_are_longer_than_a_screen():
    """40 lines; a longer one wants splitting, and those that are there (kernels, long docstrings) may stay."""
    functions = [
        (node.end_lineno - node.lineno + 1, f"{name}: {node.name}")
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    long = sorted(entry for entry in functions if entry[0] > 40)
    assert len(long) <= 8, long
