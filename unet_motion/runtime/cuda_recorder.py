"""Capturing work as a CUDA graph, on the device that it runs on.

See https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Replay = Callable[[], None]
Recorder = Callable[[Callable[[], Any], torch.device], tuple[Replay, Any]]
"""(work, its device) -> the work's replay, and the tensor, or tensors, that replays fill."""


class CudaRecorder:
    """Captures work on CUDA devices; the graphs that one recorder makes on a device share a memory pool."""

    def __init__(self) -> None:
        self._pools: dict[torch.device, Any] = {}

    def __call__(self, work: Callable[[], Any], device: torch.device) -> tuple[Replay, Any]:
        """Run the work twice to let libraries choose, then capture it.

        Other threads may allocate memory and wait for the device meanwhile.

        Raises:
            RuntimeError: the work cannot be captured, or not now.
        """
        with torch.cuda.device(device):
            # One of this device: the stream that torch captures on by itself is of the device that came first.
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(2):
                    work()
            torch.cuda.current_stream(device).wait_stream(side)
            if device not in self._pools:
                self._pools[device] = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pools[device], stream=side, capture_error_mode="thread_local"):
                    out = work()
            except BaseException:
                # The allocator takes a pool whose capture broke off for one that is still recorded into.
                del self._pools[device]
                raise
        return graph.replay, out
