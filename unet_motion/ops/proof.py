"""The mode "proven": a kernel runs where it was proven on this device, by this torch and this Triton.

The first time that a kernel would run in this process, on a device and in a dtype, it and its plain twin compute small
random inputs: odd sizes, one of real use, and each variant that the network has. It is taken where it is as near to
float64 as the twin (:class:`.comparison.Reference`), and on a card no slower. Else the twin runs, and the log says why.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .comparison import Reference, maker
from .dispatch import Kernel, interpreted
from .mode import PROVEN, current_mode, use
from .pairs import Pair, PairOf
from .tuning import choosing, is_chosen, tuned

ODD = ((1, 7, 13, 96), (3, 5, 9, 160))
"""Clips, frames, side and channels of inputs whose sizes fill no tile; rows begin at odd addresses too."""

TYPICAL = (1, 8, 16, 320)
"""Of an input as real ones are, whose tiles are whole."""

TIMED = (1, 16, 32, 320)
"""Of the inputs that are timed: the first level of a picture of 256x256, 10 MB in 16 bits; of fewer frames where a
kernel's rows are wider. Smaller ones would show how many launches there are, and not how fast each one reads."""

ROUNDS, CALLS = 5, 4
"""Rounds of which the median counts, and calls in one."""

AHEAD = 2**24
"""Numbers in float32, 64 MB, that the device fills 16 times, at 3 TB/s for a third of a millisecond, so that calls are
queued when it begins with the first."""

SLOWER = 1.0
"""How many times the twin's time a kernel may take. No more: the plain code needs no compiler and no trust."""

AGAIN = 60.0
"""Seconds after which a kernel is tried again for which there was no memory."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_proofs: dict[tuple, Proof] = {}
"""By kernel, device and dtype; behind them the sizes, of a kernel that is measured at each."""


@dataclass(frozen=True)
class Proof:
    """What was found of a kernel on a device in a dtype.

    Attributes:
        taken: whether the kernel runs there.
        note: the numbers, or why it does not.
        until: the clock's time after which it is to be found out anew; None: it holds.
    """

    taken: bool
    note: str
    until: float | None = None

    def holds(self) -> bool:
        return self.until is None or time.monotonic() < self.until


class Refused(Exception):
    """A kernel that gives other values, or (``slow``) takes longer."""

    def __init__(self, note: str, slow: bool = False) -> None:
        super().__init__(note)
        self.slow = slow


def wanted(kernel: Kernel, x: Tensor, **sizes: int) -> bool:
    """Whether a kernel is asked for on such tensors; never in compiled code, whose compiler fuses by itself.

    ``sizes``: of a kernel that runs only where it was measured; only there it is wanted.
    """
    if torch.compiler.is_compiling():
        return False
    mode = current_mode()
    if mode == "eager" or (sizes and not is_chosen(kernel.name, x.device, x.dtype, **sizes)):
        return False
    return mode == "triton" or (mode == PROVEN and is_proven(kernel, x, sizes))


def proven(kernel: Kernel, x: Tensor) -> bool:
    """Whether a kernel is asked for by the mode "proven"; for attention, which the mode "triton" leaves alone."""
    return not torch.compiler.is_compiling() and current_mode() == PROVEN and is_proven(kernel, x)


def is_proven(kernel: Kernel, x: Tensor, sizes: Mapping[str, int] = {}) -> bool:
    """Whether a kernel is proven for such tensors, which is found out now where it was not.

    Not where gradients are recorded: kernels have none, and there all is as if this mode were not. A stream that is
    being captured cannot be waited for: what was not proven before, in the runs that warm up, runs as plain PyTorch.
    """
    if torch.is_grad_enabled():
        return False
    found = _proofs.get((kernel.name, x.device, x.dtype, *sizes.items()))
    if found is None or not found.holds():
        if cannot_be_proven(kernel, x.device, x.dtype) or is_capturing(x.device):
            return False
        found = proof_of(kernel, x.device, x.dtype, sizes)
    return found.taken


def cannot_be_proven(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why there is nothing to choose on a device in a dtype, or None."""
    return kernel.lacks(device, dtype) or (
        "Triton's interpreter is slower than plain PyTorch" if interpreted() else None
    )


def is_capturing(device: torch.device) -> bool:
    """Whether this thread's work on a device is being captured as a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def proof_of(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, sizes: Mapping[str, int] = {}
) -> Proof:  # fmt: skip
    """What was found of a kernel on a device, once in a process: a second thread waits for the first one's answer.

    ``sizes``: of a kernel that is measured at each, with tiles for them.
    """
    device, line = with_index(device), None
    key = (kernel.name, device, dtype, *sizes.items())
    with _lock:
        if key not in _proofs or not _proofs[key].holds():
            line, _proofs[key] = _prove(kernel, device, dtype, sizes)
        found = _proofs[key]
    if line is not None:  # whoever reads the log may ask for a proof in turn
        _log.log(*line)
    return found


def with_index(device: torch.device) -> torch.device:
    """The device that tensors name: "cuda" is the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


Line = tuple[int, str]
"""Level and text of what is logged."""


def _prove(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, sizes: Mapping[str, int]
) -> tuple[Line, Proof]:  # fmt: skip
    where = f"on {device} in {str(dtype).removeprefix('torch.')}{_words(sizes)}"
    plain = f"{kernel.name} runs as plain PyTorch {where}: "
    chosen = tuned(kernel.name, device, dtype, **sizes) if sizes else {}

    def work() -> str:
        with _apart(device), choosing(kernel.name, **chosen) if chosen else nullcontext():
            return ", ".join(filter(None, (_compare(kernel, device, dtype), _time(kernel, device, dtype, sizes))))

    try:
        # What torch keeps for each thread is new there: autocast, streams, and modes that count or replace operators.
        with ThreadPoolExecutor(1) as thread:
            note = thread.submit(work).result()
    except Refused as reason:
        level = logging.INFO if reason.slow else logging.WARNING
        return (level, f"{plain}{reason}"), Proof(False, str(reason))
    except torch.cuda.OutOfMemoryError:
        note = f"there was no memory left to prove it; it is tried again after {AGAIN:.0f} s"
        return (logging.INFO, plain + note), Proof(False, note, time.monotonic() + AGAIN)
    except Exception as error:  # whatever a compiler, a driver or a launch may say
        note = f"its kernel failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        return (logging.WARNING, plain + note), Proof(False, note)
    return (logging.INFO, f"{kernel.name} runs as a Triton kernel {where}: {note}"), Proof(True, note)


def _words(sizes: Mapping[str, int]) -> str:
    named = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return f" at {named}" if named else ""


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    """Plain code and no gradients, on the device, which has nothing else to do."""
    with use("eager"), torch.no_grad():
        if device.type != "cuda":
            yield
            return
        with torch.cuda.device(device):
            torch.cuda.synchronize()
            yield


def _compare(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> str:
    """The largest errors; Refused where one is larger than the twin's."""
    errors = []
    for size in (*ODD, TYPICAL):
        for number, (words, pair_of) in enumerate(kernel.pairs):
            make_pair = partial(_sized, pair_of, size)
            # Real addresses are whole multiples of what is read at once; in odd sizes they are not.
            reference = Reference(make_pair, number, dtype, device, padding=8 if size == TYPICAL else 7)
            error = reference.error()
            if not reference.as_exact(error):
                raise Refused(
                    f"in {words}, {'x'.join(map(str, size))}, it is {error:.1e} of the largest value from float64, "
                    f"the plain twin {reference.twin:.1e}"
                )
            errors.append((error, reference.twin))
    worst, twins = (max(column) for column in zip(*errors, strict=True))
    return f"{worst:.1e} of the largest value from float64, the plain twin {twins:.1e}"


def _time(kernel: Kernel, device: torch.device, dtype: torch.dtype, sizes: Mapping[str, int]) -> str:
    """The times of all variants together; Refused where the twin is faster, nothing where there is no card.

    A kernel that takes the place of several launches has to be faster than those are on kernels, too.
    """
    if not has_events(device):
        return ""
    total = [0.0, 0.0]
    for number, (_, pair_of) in enumerate(kernel.pairs):
        given = pair_of(maker(number, dtype, device), *timed_size(kernel, sizes))
        others = filter(None, (given.plain, given.apart))
        times = device_milliseconds((given.kernel, *others), device)
        total = [total[0] + times[0], total[1] + min(times[1:])]
    ours, plain = total
    note = f"{ours:.3f} ms, the plain twin {plain:.3f} ms"
    if not ours <= SLOWER * plain:
        raise Refused(f"it takes {note}", slow=True)
    return note


def timed_size(kernel: Kernel, sizes: Mapping[str, int]) -> tuple[int, int, int, int]:
    """Clips, frames, side and channels of what is timed: of a kernel with sizes of its own up to as many rows."""
    clips, frames, side, channels = TIMED
    if not sizes:
        return clips, max(1, frames // kernel.width), side, channels
    return clips, min(frames, max(1, sizes["rows"] // (clips * side * side))), side, sizes["depth"]


def _sized(pair_of: PairOf, size: tuple[int, ...], make: Callable[..., Tensor]) -> Pair:
    return pair_of(make, *size)


def has_events(device: torch.device) -> bool:
    """Whether time can be told on a device itself: what an interpreter takes says nothing."""
    return device.type == "cuda"


def occupy(device: torch.device) -> None:
    """Give a device so much to do that it is behind with what comes next."""
    busy = torch.empty(AHEAD, device=device)
    for _ in range(16):
        busy.fill_(0)


def device_milliseconds(works: tuple[Callable[[], object], ...], device: torch.device) -> list[float]:
    """The median time on a card of one call of each work, by events, in turns."""
    marks: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, own in zip(works, marks, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            occupy(device)
            start.record()
            for _ in range(CALLS):
                work()
            end.record()
            own.append((start, end))
    marks[-1][-1][1].synchronize()
    return [statistics.median(start.elapsed_time(end) for start, end in own) / CALLS for own in marks]
