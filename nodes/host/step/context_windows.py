"""Context windows on a MODEL: a clip longer than the position table, cut anew in each step, through ComfyUI's handler.

ComfyUI asks the `context_handler` of a MODEL's options wherever it would run the model on a batch. The windows and
their weights are the library's; several windows of a clip, and all clips of a batch, can go into one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.context_windows
import comfy.model_management
import torch
from torch import Tensor

from ....unet_motion.sampling import ContextWindows, free_noise
from ....unet_motion.sampling.windowed import window_groups
from .hooks import KEY
from .window_conds import conds_of_rows
from .window_devices import DeviceCall
from .window_hints import chain, follows_frames

HANDLER = "context_handler"
STEP_CACHE = "unet_motion_step_cache"
"""Where the state of a run with a step cache stands in `transformer_options`."""

ANY_NUMBER = 1 << 31
"""More frames than a clip has."""


@dataclass(frozen=True)
class WindowPart:
    """Windows for a part of the sampling.

    Attributes:
        at_once: windows in one pass, fewer where memory is short.
        free_noise: whether a run that begins in this part begins from FreeNoise.
        views: the windows are inside the motion modules, and all else of the model runs once for each frame.
        frames_at_once: with ``views``: frames in the layers between motion modules at a time; 0: all.
        start_percent, end_percent: of the sampling; 0 is its first step and 1 its last.
    """

    windows: ContextWindows
    at_once: int
    free_noise: bool
    start_percent: float
    end_percent: float
    views: bool
    frames_at_once: int

    def holds(self, sigma: float, model_sampling: Any) -> bool:
        first, last = (float(model_sampling.percent_to_sigma(p)) for p in (self.start_percent, self.end_percent))
        return last < sigma <= first


class WindowGroup:
    """Windows of one length that go through the model together, under the names of ComfyUI's own windows.

    Attributes:
        index_list: frames of a clip, window by window.
        rows: of the batch: the same of every clip, clip by clip.
        total_frames: of a clip.
        context_length: frames of one window.
    """

    dim = 0

    def __init__(self, windows: Sequence[Sequence[int]], frames: int, clips: int):
        self.index_list = [frame for window in windows for frame in window]
        self.rows = [clip * frames + frame for clip in range(clips) for frame in self.index_list]
        self.total_frames, self.context_length = frames, len(windows[0])

    def get_tensor(self, full: Tensor, device: Any = None, dim: int = 0) -> Tensor:
        """The windows' part of a tensor of the batch, as other packs ask ComfyUI's windows for it."""
        if full.shape[dim] == 1:
            return full
        return full.index_select(dim, torch.tensor(self.rows, device=full.device)).to(device)


class ClipWindows(comfy.context_windows.ContextHandlerABC):
    """Draws a clip in windows; never changes.

    Args:
        parts: where several hold a step, the last one counts; a step in none draws the whole clip at once.
    """

    dim = 0
    freenoise = False  # what ComfyUI's own node would do to the noise; done by `noise_for_windows`

    def __init__(self, parts: Sequence[WindowPart]):
        super().__init__()
        self.parts = tuple(parts)

    def __deepcopy__(self, memo: dict) -> ClipWindows:
        return self

    @property
    def context_length(self) -> int:
        """Frames in one pass, where ComfyUI's own node on the same MODEL asks."""
        return max(ANY_NUMBER if part.views else part.windows.length * part.at_once for part in self.parts)

    def with_part(self, part: WindowPart) -> ClipWindows:
        """With windows for a part of the sampling; those for the whole replace all others."""
        whole = part.start_percent <= 0 and part.end_percent >= 1
        return ClipWindows([part] if whole else [*self.parts, part])

    @property
    def covers_the_run(self) -> bool:
        """Whether each step has windows."""
        reached = 0.0
        for part in sorted(self.parts, key=lambda part: part.start_percent):
            if part.start_percent <= reached:
                reached = max(reached, part.end_percent)
        return reached >= 1

    def part_at(self, sigma: float, model_sampling: Any) -> WindowPart | None:
        return next((part for part in reversed(self.parts) if part.holds(sigma, model_sampling)), None)

    def plan(
        self, frames: int, step: int, sigmas: Sequence[float], model_sampling: Any, held: int | None = None
    ) -> tuple[WindowPart | None, list[tuple[list[int], list[float]]]]:
        """The part of a step and its windows with their weights; none where the whole clip is drawn at once.

        Args:
            held: the step whose windows it has; None: its own.
        """
        part = self.part_at(sigmas[step], model_sampling)
        if part is None or not part.windows.apply_to(frames):
            return None, []
        return part, part.windows.plan(frames, step if held is None else held)

    def should_use_context(self, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: dict) -> bool:
        return True

    def get_resized_cond(self, cond_in: list | None, x_in: Tensor, window: WindowGroup, device: Any = None) -> Any:
        return conds_of_rows(cond_in, window.rows, len(x_in))

    def execute(
        self, calc_cond_batch: Callable, model: Any, conds: list, x_in: Tensor, timestep: Tensor, model_options: dict
    ) -> list[Tensor]:
        """What the model predicts for each of the conds, over all windows.

        Args:
            x_in: (clips * frames, C, h, w).
            timestep: sigmas (clips * frames,).
        """
        options = model_options["transformer_options"]
        frames = frames_per_clip(options, len(x_in))
        sigma = float(timestep.flatten()[0])
        sigmas = options["sample_sigmas"].tolist() if "sample_sigmas" in options else [sigma]
        step, cache = step_of(sigmas, sigma), options.get(STEP_CACHE)
        # What a step cache keeps is of windows, which stay as they are until all is computed anew.
        held = None if cache is None else cache.settings.held(step, max(1, len(sigmas) - 1))
        part, plan = self.plan(frames, step, sigmas, model.model_sampling, held)
        if part is None:
            return calc_cond_batch(model, conds, x_in, timestep, model_options)
        if part.views:
            inside = {"views": plan, "frames_at_once": part.frames_at_once}
            return calc_cond_batch(model, conds, x_in, timestep, _with_options(model_options, inside))
        call = DeviceCall(calc_cond_batch, model, conds, x_in, timestep, model_options)
        return self._averaged(call, part, plan, frames)

    def _averaged(self, call: DeviceCall, part: WindowPart, plan: list, frames: int) -> list[Tensor]:
        """The weighted mean of what the model predicts for the windows."""
        x_in, clips = call.x, len(call.x) // frames
        totals = [torch.zeros_like(x_in, dtype=torch.promote_types(x_in.dtype, torch.float32)) for _ in call.conds]
        at_once = 1 if _has_foreign_control(call.conds) else part.at_once
        # Rather a window on each device than several on one of them.
        at_once = min(at_once, -(-len(plan) // len(call.devices)))
        while at_once > 1 and not _fits(call.model, x_in, call.conds, at_once * part.windows.length * clips):
            at_once -= 1
        groups = list(window_groups(plan, at_once))
        places = [WindowGroup(windows, frames, clips) for windows, _ in groups]
        results = call.in_turn([self._call_of(call, group) for group in places])
        for group, (_, weights), found in zip(places, groups, results, strict=True):
            rows = torch.tensor(group.rows, device=x_in.device)
            shares = torch.tensor(weights * clips, dtype=totals[0].dtype, device=x_in.device).view(-1, 1, 1, 1)
            for total, part_found in zip(totals, found, strict=True):
                total.index_add_(0, rows, part_found.to(total) * shares)
        return [total.to(x_in.dtype) for total in totals]

    def _call_of(self, call: DeviceCall, group: WindowGroup) -> Callable[[], DeviceCall]:
        """The call for some windows, made when it is its turn."""

        def make() -> DeviceCall:
            timestep, rows = call.timestep, torch.tensor(group.rows, device=call.x.device)
            return replace(
                call,
                conds=[self.get_resized_cond(cond, call.x, group) for cond in call.conds],
                x=call.x[rows],
                timestep=timestep[rows.to(timestep.device)] if len(timestep) == len(call.x) else timestep,
                model_options=_with_options(
                    call.model_options, {"frames_per_clip": group.context_length}, context_window=group
                ),
            )

        return make


def frames_per_clip(options: dict, rows: int) -> int:
    """Frames of a clip in a batch of so many.

    Raises:
        ValueError: the batch is not made of whole clips.
    """
    frames = min(options.get(KEY, {}).get("frames_per_clip") or rows, rows)
    if rows % frames:
        raise ValueError(f"frames_per_clip is {frames}, but the latent batch of {rows} frames is not a multiple of it.")
    return frames


def step_of(sigmas: Sequence[float], sigma: float) -> int:
    """The step of a run that a model call at `sigma` belongs to: samplers also ask between two steps."""
    steps = max(1, len(sigmas) - 1)
    return max((i for i in range(steps) if sigmas[i] >= sigma * (1 - 1e-4)), default=0)


def _with_options(model_options: dict, own: dict, **changes: Any) -> dict:
    """Options with some of the pack's own settings and some of `transformer_options` changed."""
    options = model_options["transformer_options"]
    options = {**options, **changes, KEY: {**options.get(KEY, {}), **own}}
    return {**model_options, "transformer_options": options}


def _has_foreign_control(conds: Sequence[list | None]) -> bool:
    """Whether a control looks frames up in `ad_params`, where no frame may stand twice."""
    controls = [cond.get("control") for group in conds for cond in group or ()]
    return any(follows_frames(item) for control in controls for item in chain(control))


def _fits(model: Any, x_in: Tensor, conds: Sequence[list | None], rows: int) -> bool:
    """Whether ComfyUI would put as many frames of all conds into one batch."""
    shape = [rows * max(1, sum(len(group) for group in conds if group)), *x_in.shape[1:]]
    return model.memory_required(shape) * 1.5 < comfy.model_management.get_free_memory(x_in.device)


def set_windows(model: Any, part: WindowPart) -> Any:
    """A clone of a MODEL that draws clips in windows, in a part of the sampling or in all of it."""
    clone = model.clone()
    before = clone.model_options.get(HANDLER)
    own = before if isinstance(before, ClipWindows) else ClipWindows(())
    clone.model_options[HANDLER] = own.with_part(part)
    return clone


def noise_for_windows(noise: Tensor, model_options: dict, sigmas: Tensor, sampling: Any, seed: int) -> Tensor:
    """FreeNoise over each clip of a batch, where the windows of the run's first step ask for it; else the noise."""
    handler = model_options.get(HANDLER)
    if not isinstance(handler, ClipWindows) or noise.ndim != 4:
        return noise
    frames = frames_per_clip(model_options.get("transformer_options", {}), len(noise))
    part = handler.part_at(float(sigmas[0]), sampling)
    if part is None or not part.free_noise or not part.windows.apply_to(frames):
        return noise
    length = part.windows.length
    overlap = 0 if part.windows.schedule == "batched" else part.windows.overlap
    return torch.cat([free_noise(clip, length, overlap, seed) for clip in noise.split(frames)])
