"""All stages with their shares of the time, and one whole run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import bundled, comfyui, compiled, kernel_checks, machine, profile, report, step_times, tuning
from .sizes import REAL, REHEARSAL
from .stages import Card, Stage, run_stages

STAGES = (
    Stage("machine", "The machine and its ceilings", 20, machine.stage),
    Stage("kernels", "Kernels against float64, and their time", 90, kernel_checks.stage),
    Stage("steps", "Steps of a whole UNet", 110, step_times.stage),
    Stage("profile", "Where a step's time goes", 30, profile.stage),
    Stage("tuning", "Tiles and warps", 45, tuning.stage),
    Stage("comfyui", "KSampler in ComfyUI", 50, comfyui.stage, apart=True),
    Stage("bundled", "The bundled model's clip beside the CPU's", 20, bundled.stage),
    Stage("compiled", "torch.compile", 85, compiled.stage, apart=True),
)
"""In order of worth; the shares are seconds of 450."""


def run_card(names: Sequence[str], rehearse: bool, budget: float, out: Path, comfyui: Path | None, begun: float) -> int:
    """Run the named stages, or all; gives 1 where one failed.

    Args:
        rehearse: on the CPU, in Triton's interpreter, at sizes of no meaning.
        budget: seconds since ``begun``, as time.monotonic.

    Raises:
        ValueError: an unknown stage, no time, or no card.
    """
    unknown = sorted(set(names) - {stage.name for stage in STAGES})
    if unknown:
        raise ValueError(f"stage {unknown[0]!r} is unknown; expected some of {', '.join(s.name for s in STAGES)}")
    if not budget > 0:
        raise ValueError(f"--budget is {budget}, expected seconds above 0")
    if not rehearse and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device; --rehearse runs the same on the CPU, at sizes of no meaning")
    if rehearse:
        torch.set_num_threads(1)  # more would wait for each other on tensors this small
    device = torch.device("cpu") if rehearse else torch.device("cuda", torch.cuda.current_device())
    out.mkdir(parents=True, exist_ok=True)
    card = Card(device, REHEARSAL if rehearse else REAL, out, comfyui)
    card.about = machine.about(card)
    if rehearse:
        card.about["rehearsal"] = "on the CPU, kernels interpreted, tiny: the figures mean nothing"
    gc.collect()
    gc.freeze()  # each capture collects garbage: what is imported need not be looked through again
    words = "".join(c if c.isalnum() else " " for c in card.about["device"].split(",")[0]).split()
    table = out / f"{card.about['date']}-{'rehearsal' if rehearse else '-'.join(words).lower()}-card.md"
    stages = [stage for stage in STAGES if not names or stage.name in names]
    results = run_stages(card, stages, budget, lambda results: report.write(table, card.about, results), begun)
    print(f"written: {table}", file=sys.stderr)
    return int(any(found.state == "failed" for found in results))
