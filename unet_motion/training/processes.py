"""Training on several processes: each computes some rows of a batch, and all take the same step.

Every process draws the whole batch from the same generator, so nothing but gradients and losses has to travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batch import Draw


class Processes:
    """This process alone.

    Attributes:
        device: where it computes.
        count: how many there are.
        number: which one this is; 0 writes the files.
    """

    count, number = 1, 0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.number == 0

    def own(self, draw: Draw) -> Draw:
        """This process's rows of a batch, of which each gets equally many."""
        size = len(draw) // self.count
        return draw.rows(slice(self.number * size, (self.number + 1) * size))

    def mean(self, value: float) -> float:
        """The mean of all processes' values; NaN where one of them is."""
        return value

    def mean_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by the mean of all processes'."""

    def wait(self) -> None:
        """Go on when all processes are here."""


class AcceleratedProcesses(Processes):
    """The processes that `accelerate launch` started.

    Args:
        cpu: compute on the CPU even where there is another device.

    Raises:
        ImportError: accelerate is not installed.
    """

    def __init__(self, cpu: bool = False) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ImportError(
                "training on several processes needs accelerate, which is not installed: `pip install accelerate`."
            ) from error
        self.accelerator: Any = Accelerator(cpu=cpu)
        super().__init__(self.accelerator.device)
        self.count, self.number = self.accelerator.num_processes, self.accelerator.process_index

    def mean(self, value: float) -> float:
        # Not in float32: the log would round where one process alone does not.
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        return self.accelerator.reduce(total, "mean").item()

    def mean_gradients(self, parameters: Sequence[Tensor]) -> None:
        if self.count == 1:
            return
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        parts = self.accelerator.reduce(flat, "mean").split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
