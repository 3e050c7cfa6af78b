"""Runs stages in order, each within its own time and its own try, and writes what there is after each."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..cases import NotMeasured
from .sizes import Sizes

LEAST = 1.0
"""Seconds that a stage needs to begin."""


class OutOfTime(BaseException):
    """A stage's time is over. No Exception, so that no other try than the stage's own takes it."""


@dataclass
class Found:
    """What a stage gave.

    Attributes:
        state: "done", "failed", "out of time" or "left out"; "running" only in what a killed run leaves behind.
        why: where it is not done, in a sentence.
        rows: what was measured; each has a "case".
    """

    name: str
    title: str
    state: str = "running"
    why: str = ""
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: str, **values: Any) -> dict[str, Any]:
        """A row; it is kept even where the stage fails later."""
        self.rows.append({"case": case, **values})
        tell(self.rows[-1])
        return self.rows[-1]

    @contextmanager
    def row(self, case: str) -> Iterator[dict[str, Any]]:
        """Gives the row, to which values may be added later too; an error becomes the row's, and the stage goes on."""
        values: dict[str, Any] = {"case": case}
        try:
            yield values
        except NotMeasured as reason:
            values["result"] = f"not measured: {reason}"
        except Exception as error:
            values["result"] = f"failed: {in_a_line(error)}"
        self.rows.append(values)
        tell(values)


def tell(row: dict[str, Any]) -> None:
    """Print a row for whoever watches."""
    values = ", ".join(f"{name} {value}" for name, value in row.items() if name != "case" and value is not None)
    print(f"    {row['case']}: {values}", file=sys.stderr, flush=True)


@dataclass
class Card:
    """What all stages share.

    Attributes:
        ends: when the running stage's time is over, as time.monotonic.
        about: the machine, with the first stage's ceilings.
        kept: what a stage leaves for the next ones.
    """

    device: torch.device
    sizes: Sizes
    out: Path
    comfyui: Path | None = None
    ends: float = float("inf")
    about: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds of the running stage."""
        return self.ends - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        share: of the whole budget; what earlier stages leave of theirs is added.
        apart: whether it computes in processes of its own, and so works after an error that broke this one's device.
    """

    name: str
    title: str
    share: float
    run: Callable[[Card, Found], None]
    apart: bool = False


def run_stages(
    card: Card, stages: Sequence[Stage], budget: float, write: Callable[[list[Found]], None], begun: float | None = None
) -> list[Found]:
    """Run them one after another; ``write`` gets all results so far after each one.

    Args:
        budget: seconds for all.
        begun: when that time began, as time.monotonic; default: now.
    """
    begun = time.monotonic() if begun is None else begun
    whole, due, broken = sum(stage.share for stage in stages), begun, ""
    results: list[Found] = []
    for stage in stages:
        due += budget * stage.share / whole
        found = Found(stage.name, stage.title)
        results.append(found)
        start = time.monotonic()
        card.ends = due
        if broken and not stage.apart:
            found.state, found.why = "left out", f"the device does not answer any more since {broken}"
        elif card.left < LEAST:
            found.state, found.why = "left out", f"{max(0.0, card.left):.0f} s of the budget are left"
        else:
            print(f"{stage.name}, at most {card.left:.0f} s", file=sys.stderr, flush=True)
            _one(card, stage, found)
            broken = broken or (stage.name if found.state != "done" and not answers(card.device) else "")
        found.seconds = round(time.monotonic() - start, 1)
        print(f"  {found.state} in {found.seconds} s {found.why}", file=sys.stderr, flush=True)
        write(results)
    return results


def _one(card: Card, stage: Stage, found: Found) -> None:
    try:
        with at_most(card.left):
            stage.run(card, found)
        found.state = "done"
    except NotMeasured as reason:
        found.state, found.why = "left out", str(reason)
    except OutOfTime:
        found.state, found.why = "out of time", "its time was over; the rows above it are whole"
    except Exception as error:
        found.state, found.why = "failed", in_a_line(error)
        traceback.print_exc()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after that time, where the system has an alarm for the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answers(device: torch.device) -> bool:
    """Whether a device still computes: an error inside of a kernel ends that for the whole process."""
    try:
        return torch.ones(2, device=device).sum().item() == 2
    except RuntimeError:
        return False


def in_a_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def as_json(about: dict[str, str], results: Sequence[Found]) -> dict[str, Any]:
    return {"about": about, "stages": [asdict(found) for found in results]}
