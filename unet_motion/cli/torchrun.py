"""The processes that torchrun started for one command."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sampling import Ranks, WindowPart


@dataclass(frozen=True)
class Launch:
    """This process among those that draw one clip.

    Attributes:
        device: of torch, that it computes on; None is the default one.
        count: processes; 1 without torchrun.
        number: which one this is, from 0.
    """

    device: str | None
    count: int = 1
    number: int = 0

    @classmethod
    def of(cls, device: str | None, windows: Sequence[WindowPart] | None) -> Launch:
        """What torchrun's variables in the environment say.

        Args:
            device: that the command was given.
            windows: of the clip.

        Raises:
            ValueError: several processes, but nothing that they could share, or one device for all of them.
        """
        import torch

        # torchrun sets the first; others, such as Slurm's steps, set the sizes alone for programs that never ask.
        count = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
        if count == 1:
            return cls(device)
        if windows is None:
            raise ValueError(f"torchrun started {count} processes, which share windows: give --window as well")
        if all(part.views for part in windows):
            raise ValueError(f"torchrun started {count} processes, but --views makes one call of all windows")
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if kind not in ("cuda", "cpu"):
            raise ValueError(f"--device is {kind}, but torchrun started {count} processes: expected cuda or cpu")
        number, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        if kind == "cuda" and local >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun started more processes here than the {torch.cuda.device_count()} CUDA devices, expected "
                "--nproc-per-node gpu, or --device cpu"
            )
        return cls(f"cuda:{local}" if kind == "cuda" else kind, count, number)

    @property
    def speaks(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.number == 0

    @contextmanager
    def ranks(self) -> Iterator[Ranks | None]:
        """What a pipeline takes to share its windows, while all processes are there; None for one process."""
        if self.count == 1:
            yield None
            return
        import torch
        import torch.distributed as dist

        from ..sampling import Ranks

        on_cards = self.device != "cpu"
        if on_cards:
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if on_cards else "gloo")
        try:
            yield Ranks()
        finally:
            dist.destroy_process_group()
