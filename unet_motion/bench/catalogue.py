"""The cases by name, for a CPU and for a GPU, with their sizes and targets."""

from __future__ import annotations

from collections.abc import Callable

from .cases import Bench, Row, loading, long_clips, motion_module, whole_step
from .evolved import evolved_step
from .freeu import freeu_step
from .kernel_cases import kernels
from .training import training_step

CPU_CASES: dict[str, Callable[[Bench], list[Row]]] = {
    # First: behind others, memory that they freed is kept by the process, and a module alone has other figures.
    "motion-module": lambda b: motion_module(b, 320, 1, 16, 32, ">= 1.3"),
    "step-small": lambda b: whole_step(b, "small", 2, 8, 32, ">= 1.2"),
    "freeu-small": lambda b: freeu_step(b, "small", 1, 8, 32, "<= 1.5 % of the step"),
    "step-sd15": lambda b: whole_step(b, "sd15", 1, 8, 32, ">= 1.2"),
    "freeu-sd15": lambda b: freeu_step(b, "sd15", 1, 2, 32, "<= 1.5 % of the step"),
    "step-small-evolved": lambda b: evolved_step(b, "small", 1, 8, 32, scopes=("frame",)),
    "train-small": lambda b: [training_step(b, "small", 8, 16, ">= 1.15")],
    "kernels": lambda b: kernels(b, 2, 16, 64),
    "load": lambda b: loading(b, "sd15"),
    "long": lambda b: long_clips(b, "small", 16, (8, 16, 32)),
}
GPU_CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "step-sd15": lambda b: whole_step(b, "sd15", 2, 16, 64, ">= 2"),
    "freeu-sd15": lambda b: freeu_step(b, "sd15", 2, 16, 64, "<= 0.5 % of the step"),
    "step-sd15-evolved": lambda b: evolved_step(b, "sd15", 2, 16, 64),
    "motion-module": lambda b: motion_module(b, 320, 2, 16, 64, ">= 1.3"),
    "kernels": lambda b: kernels(b, 2, 16, 64),
    "load": lambda b: loading(b, "sd15"),
    "long": lambda b: long_clips(b, "sd15", 64, (16, 32, 64)),
}
