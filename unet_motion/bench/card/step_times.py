"""Steps of a whole UNet: the same values first, then their times in turn; and what a captured step follows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ForwardOptions, FreeU, UNetMotionModel, apply_motion_lora, remove_motion_lora
from ..cases import LIMITS, NotMeasured
from ..measure import take_turns
from ..nets import Inputs, relative_error
from .networks import MOTION, Steps, build, inputs_of, steps_of
from .sizes import REHEARSAL
from .stages import Card, Found, tell
from .timing import peak

FREEU = FreeU(0.9, 0.2, 1.5, 1.6)
OTHER_FREEU = FreeU(0.6, 0.4, 1.3, 1.2)


def stage(card: Card, found: Found) -> None:
    """By dtype and size: each way's error, time and memory, then what a captured step follows."""
    for dtype in card.sizes.step_dtypes:
        steps = steps_of(card.sizes, card.device, dtype)
        card.kept["steps"] = steps  # the profile is of the last one
        exact = copy.deepcopy(steps.ours).float()
        for side in card.sizes.sides:
            one_size(card, found, steps, exact, inputs_of(card.sizes, side, card.device, dtype))
        del exact
        given = inputs_of(card.sizes, min(card.sizes.sides), card.device, dtype)
        changes(card, found, steps, given)
    with found.row("a captured step on each of two cards") as row:
        two_cards(card, row)


def two_cards(card: Card, row: dict[str, Any]) -> None:
    """Capture a small network on this device and on another in turn; in the rehearsal twice on the CPU."""
    devices = [card.device] * 2
    if card.on_gpu:
        devices = [torch.device("cuda", index) for index in range(min(2, torch.cuda.device_count()))]
    if len(devices) < 2:
        raise NotMeasured("there is one card")
    errors = []
    for device in devices:
        steps = Steps(build(REHEARSAL.network, device, torch.float32), None)
        for side in (8, 16):
            given = inputs_of(REHEARSAL, side, device, torch.float32)
            captured = steps.step(given, "eager", call=steps.graphs)
            errors.append(relative_error(captured, steps.step(given, "eager")))
        row["captured"] = row.get("captured", True) and len(steps.graphs) == 2
    row["error"], row["follows"] = max(errors), max(errors) <= LIMITS[torch.float32]


def name_of(given: Inputs) -> str:
    batch, _, frames, side, _ = given.sample.shape
    return f"{batch}x{frames}x{side}x{side}, {str(given.sample.dtype).removeprefix('torch.')}"


def one_size(card: Card, found: Found, steps: Steps, exact: UNetMotionModel, given: Inputs) -> None:
    """A row for each way; one that gives other values is not timed."""
    whole = Inputs(given.sample.float(), given.timestep, given.text.float())
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else cuDNN computes float32 in TF32
        expected = Steps(exact, None).step(whole, "eager")
    rows, works = {}, {}
    for way, step in steps.ways().items():
        with found.row(f"{way}, {name_of(given)}") as row:
            rows[way], work = row, partial(step, given)
            results: list[Tensor] = []
            # The first call of a captured step also takes the memory that its graph keeps.
            first = peak(partial(_keep, work, results), card.device)
            row["error"] = relative_error(results.pop(), expected)
            if not row["error"] <= LIMITS[given.sample.dtype]:
                row["result"] = "values differ: not timed"
                continue
            row["first peak MiB"], row["peak MiB"] = in_mib(first), in_mib(peak(work, card.device))
            row["captured"] = bool(len(steps.graphs)) if way == "kernels and graph" else None
            works[way] = work
    if steps.without:
        found.add(f"diffusers, {name_of(given)}", result=f"not measured: {steps.without}")
    times(card, works, rows)


def _keep(work: Callable[[], Tensor], results: list[Tensor]) -> None:
    results.append(work())


def in_mib(held: int | None) -> int | None:
    return None if held is None else round(held / 2**20)


def times(card: Card, works: Mapping[str, Callable[[], Tensor]], rows: dict[str, dict[str, Any]]) -> None:
    """Run the ways in turn and put their times into their rows."""
    turns = take_turns(works, card.device, card.sizes.rounds, warm=int(card.on_gpu))
    peer = "diffusers" if "diffusers" in works else "plain"
    for way in works:
        rows[way]["ms"] = 1e3 * turns.median(way)
        if peer in works:
            median, low, high = turns.ratio(peer, way)
            rows[way][f"times as fast as {peer}"] = f"{median:.2f} ({low:.2f} to {high:.2f})"
        tell(rows[way])


def changes(card: Card, found: Found, steps: Steps, given: Inputs) -> None:
    """Captured steps beside such that are not, on other inputs, under another LoRA and under another FreeU."""
    mode = card.sizes.fast
    kernels = steps.kernels if mode == "triton" else ForwardOptions(attn_processors={MOTION: "auto"})
    freeu, other_freeu = (replace(kernels, freeu=freeu) for freeu in (FREEU, OTHER_FREEU))
    other = Inputs(given.sample.flip(0, 2) * 0.9, given.timestep - 100, given.text.flip(1))
    applied = apply_motion_lora(steps.ours, random_lora(steps), 0.5)

    def set_strength(strength: float) -> None:
        applied.strength = strength

    cases = (
        ("other inputs", given, kernels, other, kernels, None),
        ("another strength of a LoRA", given, kernels, given, kernels, lambda: set_strength(1.5)),
        ("another FreeU", given, freeu, given, other_freeu, None),
    )
    try:
        for name, first, options, second, other_options, change in cases:
            with found.row(f"captured, then {name}, {name_of(given)}") as row:
                before = steps.step(first, mode, options, steps.graphs)
                if change is not None:
                    change()
                after = steps.step(second, mode, other_options, steps.graphs)
                expected = steps.step(second, mode, other_options)
                row["error"], row["changed by"] = relative_error(after, expected), relative_error(after, before)
                row["captured"] = bool(len(steps.graphs))
                row["follows"] = 10 * row["error"] <= row["changed by"]
    finally:
        remove_motion_lora(steps.ours, applied)


def random_lora(steps: Steps) -> dict[str, Tensor]:
    """A LoRA of every value projection of the motion modules, large enough to be seen in any dtype."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for path, layer in steps.ours.named_modules():
        if ".motion_modules." in path and path.endswith(".to_v"):
            rows, columns = layer.get_parameter("weight").shape
            tensors[f"{path}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / columns**0.5
            tensors[f"{path}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
    return {name: tensor.to(steps.ours.device, steps.ours.dtype) for name, tensor in tensors.items()}
