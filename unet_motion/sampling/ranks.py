"""The windows of each step shared by several processes, each on a device of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """Processes of `torch.distributed` that draw one clip together, all called with the same arguments.

    Each draws some of a step's windows, and one all-reduce a step adds up what they found, so that every one of them
    goes on with the same state and has the whole clip in the end. What is sent in a step is as large as the latents.

    Args:
        group: of processes; None is all of them. Its backend must be able to sum tensors of the UNet's device:
            "gloo" does so on CPUs, "nccl" on CUDA devices.

    Attributes:
        count: how many there are.
        number: which one this is, from 0.

    Raises:
        ValueError: `torch.distributed` is not available or has not begun, or this process is not in the group.
    """

    def __init__(self, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError("torch.distributed has not begun, expected init_process_group() before Ranks().")
        self.group = group
        self.count, self.number = dist.get_world_size(group), dist.get_rank(group)
        if self.number < 0:
            raise ValueError("this process is not in the `group`, expected one of its processes.")

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of items, neighbours of each other; the parts differ by one item at most."""
        begin, end = (len(items) * number // self.count for number in (self.number, self.number + 1))
        return items[begin:end]

    def add_up(self, part: Tensor) -> None:
        """Replace every process's tensor by their sum; all have the same shape, and the same values after it."""
        dist.all_reduce(part, group=self.group)
