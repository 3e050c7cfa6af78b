"""Steps under torch.compile, ours and diffusers', each in a process that is ended when its time is over."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..cases import LIMITS, NotMeasured
from ..measure import synchronise, take_turns
from ..nets import relative_error
from ..processes import answer_of
from .networks import inputs_of, steps_of
from .sizes import REAL, REHEARSAL
from .stages import Card, Found


def stage(card: Card, found: Found) -> None:
    """A row for each of both; the peer first."""
    for number, which in enumerate(("diffusers", "ours")):
        with found.row(f"{which} compiled") as row:
            request = {
                "which": which, "device": str(card.device), "rehearsal": card.sizes is REHEARSAL,
                "threads": torch.get_num_threads(),
            }  # fmt: skip
            row.update(answer_of(__name__, request, max(1.0, card.left / (2 - number) - 2)))


def measure(which: str, device: torch.device, sizes) -> dict[str, Any]:
    """Compile a network and time its step beside the same network eager."""
    dtype = sizes.step_dtypes[0]
    steps = steps_of(sizes, device, dtype)
    given = inputs_of(sizes, sizes.sides[0], device, dtype)
    if which == "diffusers" and steps.theirs is None:
        raise NotMeasured(steps.without)
    eager = steps.step_of_theirs if which == "diffusers" else lambda given: steps.step(given, "eager")
    expected = eager(given)
    if which == "diffusers" and steps.theirs is not None:
        steps.theirs = torch.compile(steps.theirs, **sizes.compiling)
        step = steps.step_of_theirs
    else:
        whole = torch.compile(steps.ours.forward_frames, **sizes.compiling)
        step = lambda given: steps.step(given, "eager", call=whole)  # noqa: E731

    def run() -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # a result may be overwritten by the next
        return step(given)

    start = time.perf_counter()
    error = relative_error(run(), expected)
    synchronise(device)
    row: dict[str, Any] = {"compiled in s": time.perf_counter() - start, "error": error}
    if not error <= LIMITS[dtype]:
        return {**row, "result": "values differ: not timed"}
    turns = take_turns({"": run}, device, sizes.rounds, warm=2)
    return {**row, "ms": 1e3 * turns.median("")}


def main() -> None:
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    sizes = REHEARSAL if request["rehearsal"] else REAL
    try:
        row = measure(request["which"], torch.device(request["device"]), sizes)
    except NotMeasured as reason:
        row = {"result": f"not measured: {reason}"}
    Path(request["answer"]).write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main()
