"""What is compared with what: the whole step, one motion module, loading and long clips."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..forward.call import Call
from ..model.layer_factory import make_factory
from ..model.motion_module import MotionModule
from ..model.unet_motion_model import UNetMotionModel
from .measure import Ceilings, Weight, Work, take_turns, weigh
from .nets import Inputs, both_unets, make_inputs, our_unet, randomise, relative_error, text_width_of

LIMITS = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference between the outputs of two networks that may be compared in time."""

COMPILE_MODES = ("max-autotune", "max-autotune-no-cudagraphs")
"""torch.compile's modes on a GPU that are tried, with CUDA graphs and without."""


class NotMeasured(Exception):
    """A case that cannot run here; its text is one sentence that says why."""


@dataclass
class Row:
    """One comparison; times in seconds, memory in bytes.

    ``flops`` are the arithmetic of a step, ``moved`` the bytes that a kernel must read and write.

    ``ours`` is NaN where the outputs differed, and None where the case could not run.
    """

    case: str
    peer: str
    ours: float | None = None
    theirs: float | None = None
    ratio: tuple[float, float, float] | None = None
    target: str = ""
    error: float | None = None
    memory: tuple[int, int | None] | None = None
    launches: tuple[int, int] | None = None
    flops: int | None = None
    moved: int | None = None
    note: str = ""
    profile: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """The machine and the settings of a run."""

    device: torch.device
    dtype: torch.dtype
    ceilings: Ceilings
    rounds: int
    compiled: bool = False
    comfyui: Path | None = None
    evolved: Path | None = None

    def compare(
        self, case: str, peer: str, ours: Work, theirs: Work, target: str = "", inner: int = 1, more: int = 1
    ) -> Row:
        """Weigh both, check that they give the same, then time them, in ``more`` times as many rounds."""
        weights = weigh(ours, self.device), weigh(theirs, self.device)
        error = relative_error(*(weight.result for weight in weights))
        if not error <= LIMITS[self.dtype]:
            return Row(case, peer, float("nan"), error=error, note="outputs differ: not timed")
        # The results themselves are let go.
        row = self.measure(case, peer, ours, theirs, [replace(w, result=None) for w in weights], target, inner, more)
        row.error = error
        return row

    def measure(
        self, case: str, peer: str, ours: Work, theirs: Work, weights: Sequence[Weight], target: str = "",
        inner: int = 1, more: int = 1,
    ) -> Row:  # fmt: skip
        """Time two works that are known to give the same and have been weighed."""
        turns = take_turns({"ours": ours, "theirs": theirs}, self.device, self.rounds * more, self.warm, inner)
        mine, other = weights
        return Row(
            case, peer, turns.median("ours"), turns.median("theirs"), turns.ratio("theirs", "ours"), target,
            memory=(mine.memory, other.memory), launches=(mine.launches, other.launches), flops=mine.flops,
            profile=mine.shares,
        )  # fmt: skip

    @property
    def warm(self) -> int:
        """Untimed rounds; on a CPU the call that was weighed is enough."""
        return int(self.device.type == "cuda")


def step_of_ours(unet: UNetMotionModel, inputs: Inputs) -> Callable[[], Tensor]:
    return torch.no_grad()(lambda: unet(inputs.sample, inputs.timestep, inputs.text).sample)


def step_of_theirs(unet: Callable[..., Any], inputs: Inputs) -> Callable[[], Tensor]:
    """diffusers wants the text once per frame."""
    text = inputs.text.repeat_interleave(inputs.frames, dim=0)
    return torch.no_grad()(lambda: unet(inputs.sample, inputs.timestep, text).sample)


def whole_step(bench: Bench, size: str, batch: int, frames: int, side: int, target: str) -> list[Row]:
    """A step of the UNet against diffusers, eager and (where asked for) compiled; the note names the fastest peer."""
    ours, theirs = both_unets(size, bench.device, bench.dtype)
    inputs = make_inputs(batch, frames, side, text_width_of(ours.config), bench.device, bench.dtype)
    case = f"step {size} {batch}x{frames}x{side}x{side}"
    step, their_step = step_of_ours(ours, inputs), step_of_theirs(theirs, inputs)
    rows = [bench.compare(case, "diffusers", step, their_step, target)]
    if bench.compiled:
        modes = COMPILE_MODES if bench.device.type == "cuda" else ("default",)
        rows.append(compiled_step(bench, case, step, theirs, inputs, modes))
    return name_fastest(rows)


def name_fastest(rows: list[Row]) -> list[Row]:
    """The rows of one case with a note on the one whose peer took least, compared with ours in its own turns."""
    timed = [(row.ratio[0], i) for i, row in enumerate(rows) if row.ratio]
    if len(timed) > 1:
        fastest = rows[min(timed)[1]]
        fastest.note = ", ".join(filter(None, [f"{fastest.peer} is the fastest peer", fastest.note]))
    return rows


def compiled_step(
    bench: Bench, case: str, step: Work, theirs: Callable[..., Any], inputs: Inputs, modes: tuple[str, ...]
) -> Row:
    """A step against diffusers' compiled in the fastest of some modes."""
    works = {mode: compiled_in(mode, theirs, inputs) for mode in modes}
    best = modes[0]
    seconds: dict[str, float] = {}
    if len(works) > 1:
        turns = take_turns(works, bench.device, rounds=3, warm=3)
        seconds = {mode: turns.median(mode) for mode in modes}
        best = min(seconds, key=lambda mode: seconds[mode])
    row = bench.compare(case, f"diffusers compiled ({best})", step, works[best])
    row.note = ", ".join(f"{mode}: {1e3 * took:.3g} ms" for mode, took in seconds.items())
    return row


def compiled_in(mode: str, theirs: Callable[..., Any], inputs: Inputs) -> Work:
    """diffusers' step compiled in a mode."""
    work = step_of_theirs(torch.compile(theirs, mode=mode), inputs)
    if mode != "max-autotune":
        return work

    def run() -> Tensor:
        # CUDA graphs write each result into the same memory.
        torch.compiler.cudagraph_mark_step_begin()
        return work().clone()

    return run


def motion_module(bench: Bench, channels: int, batch: int, frames: int, side: int, target: str) -> list[Row]:
    """One motion module, its input and output frames-in-batch as in the UNet."""
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    ours = MotionModule(make_factory(None, None, None, None), channels, 8, 1, 32, 32).eval().requires_grad_(False)
    randomise(ours)
    theirs = AnimateDiffTransformer3D(
        num_attention_heads=8, attention_head_dim=channels // 8, in_channels=channels, num_layers=1,
        norm_num_groups=32, cross_attention_dim=None, attention_bias=False, activation_fn="geglu",
        positional_embeddings="sinusoidal", num_positional_embeddings=32, double_self_attention=True,
    ).eval().requires_grad_(False)  # fmt: skip
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for module in (ours, theirs):
        module.to(bench.device, bench.dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch * frames, channels, side, side, generator=generator).to(bench.device, bench.dtype)
    tokens = x.contiguous(memory_format=torch.channels_last)
    call = Call(batch, frames, temb=tokens.new_empty(0))
    case = f"motion module {channels} channels, {batch}x{frames}x{side}x{side}"
    mine = torch.no_grad()(lambda: ours(tokens, call))
    peers: dict[str, Callable[..., Any]] = {"diffusers": theirs}
    if bench.compiled:
        peers["diffusers compiled"] = cast(Any, torch.compile(theirs))
    works = {name: torch.no_grad()(partial(module, x, num_frames=frames)) for name, module in peers.items()}
    return name_fastest([bench.compare(case, name, mine, work, target, more=4) for name, work in works.items()])


def loading(bench: Bench, size: str) -> list[Row]:
    """From a folder on disk to weights that have been read and checked for NaN, against reading the file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        our_unet(size, torch.device("cpu"), torch.float16).save_pretrained(folder)
        file = Path(folder) / "diffusion_pytorch_model.safetensors"

        def read() -> None:
            with open(file, "rb", buffering=0) as source:
                while source.read(2**24):
                    pass

        def load() -> None:
            # The check for NaN reads every weight of the mapped file.
            UNetMotionModel.from_pretrained(folder, torch_dtype=torch.float16).to(bench.device)

        # Waiting for the disk counts too.
        turns = take_turns({"ours": load, "theirs": read}, bench.device, 2 * bench.rounds, clock=time.perf_counter)
        size_gb = file.stat().st_size / 2**30
    median, low, high = turns.ratio("ours", "theirs")
    row = Row(f"load {size} ({size_gb:.2f} GiB)", "bare read", turns.median("ours"), turns.median("theirs"))
    row.note, row.target = f"{median:.2f} times the bare read ({low:.2f} to {high:.2f})", "<= 1.3 times"
    return [row]


def long_clips(bench: Bench, size: str, side: int, lengths: tuple[int, ...]) -> list[Row]:
    """A step's time and memory by the number of frames."""
    unet = our_unet(size, bench.device, bench.dtype)
    rows = []
    for frames in lengths:
        inputs = make_inputs(1, frames, side, text_width_of(unet.config), bench.device, bench.dtype)
        work = step_of_ours(unet, inputs)
        weight = weigh(work, bench.device)
        turns = take_turns({"ours": work}, bench.device, bench.rounds, bench.warm)
        row = Row(f"step {size} 1x{frames}x{side}x{side}", "", turns.median("ours"))
        row.memory, row.flops = (weight.memory, None), weight.flops
        row.note = f"{1e3 * turns.median('ours') / frames:.1f} ms a frame"
        rows.append(row)
    return rows
