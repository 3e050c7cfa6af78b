"""What every training loop shares: seeded generators, a moving average of weights, checkpoints, logs and the clock."""

import errno
import json
import pickle
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..files.atomic import atomic_file
from ..files.errors import shorten
from ..files.writing import as_os_error


class Average:
    """Exponential moving average of a list of parameters; young averages follow faster, so no start-up bias stays."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters = list(parameters)
        self.decay = decay
        self.count = 0
        self.values = [p.detach().float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live parameters with the averaged ones; call twice to restore."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)

    def state_dict(self) -> dict:
        return {"count": self.count, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]
        for value, stored in zip(self.values, state["values"], strict=True):
            value.copy_(same_shape(stored, value))


def same_shape(stored: Tensor, value: Tensor) -> Tensor:
    """What a checkpoint has for a tensor; TypeError where its shape is another, which copying might spread."""
    if stored.shape != value.shape:
        raise TypeError(f"it has a tensor of shape {list(stored.shape)} for one of {list(value.shape)}")
    return stored


def save_whole(state: dict, path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves either the old file or the new one.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    with atomic_file(path) as part, as_os_error(path):
        torch.save(state, part)


def load_state(path: Path) -> dict | None:
    """Read a checkpoint written by `save_whole`, or None where there is none. Runs no code from the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or no such checkpoint.
    """
    if not path.exists():
        return None
    with damage_named(path):
        state = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    return state


_DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError,
    zipfile.BadZipFile, OSError,
)  # fmt: skip
"""What reading a checkpoint and taking its values over raise where it is not as it was written."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Make of an error in reading or restoring a checkpoint a ValueError that names it."""
    try:
        yield
    except _DAMAGE as error:
        # Seeking to where a short file has nothing is no error of the disk.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = shorten(str(error).partition("\n")[0])
        raise ValueError(
            f"{path}: is damaged or no checkpoint of this run ({type(error).__name__}: {reason}), expected what the "
            "run wrote: remove it to begin anew, or write to another folder."
        ) from error


def rng_state(rng: np.random.Generator) -> str:
    """A generator's state as text (its integers are too wide for tensors)."""
    return json.dumps(rng.bit_generator.state)


def set_rng_state(rng: np.random.Generator, state: str) -> None:
    rng.bit_generator.state = json.loads(state)


class RunLog:
    """One JSON object a line, in a file and on the console, with the seconds since the run began."""

    def __init__(self, path: Path | None, quiet: bool = False):
        self.path, self.quiet, self.began = path, quiet, time.perf_counter()

    def write(self, stage: str, **figures) -> None:
        row = {"stage": stage, "seconds": round(time.perf_counter() - self.began, 1)}
        row |= {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}
        line = json.dumps(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
        if not self.quiet:
            print(line, flush=True)


def decayed(step: int, steps: int, warmup: int = 50, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then a half cosine from 1 to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * share)).item()
