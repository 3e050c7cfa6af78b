"""A run of a MODEL with context windows: what is checked before it, set aside for it, and cleared after it.

Both kinds of windows are looked after: the pack's own, and those of ComfyUI's *Context Windows (Manual)*.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from comfy.context_windows import IndexListContextHandler
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .context_windows import HANDLER, ClipWindows, frames_per_clip, noise_for_windows
from .window_hints import RUN, WindowHints, check_hints

WINDOWS_KEY = "unet_motion_windows"

CORE_NODE = "ComfyUI's Context Windows (Manual)"
OWN_NODE = "Context Windows (motion)"


def watch_windows(model: Any) -> None:
    """Make a MODEL check its context windows before a run, and hold what they need no longer than the run."""
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, _run),
        (WrappersMP.PREPARE_SAMPLING, _prepare),
        (WrappersMP.SAMPLER_SAMPLE, _sample),
    ):
        model.remove_wrappers_with_key(kind, WINDOWS_KEY)
        model.add_wrapper_with_key(kind, WINDOWS_KEY, wrapper)


def _run(executor, noise, latent_image, sampler, sigmas, *rest, **named):
    guider = executor.class_obj
    options = guider.model_options
    if HANDLER not in options or noise.ndim != 4:
        return executor(noise, latent_image, sampler, sigmas, *rest, **named)
    check_run(guider.model_patcher, options, guider.conds, len(noise), sigmas)
    hints = options["transformer_options"][RUN] = WindowHints()
    try:
        return executor(noise, latent_image, sampler, sigmas, *rest, **named)
    finally:
        hints.clear()
        options["transformer_options"].pop(RUN, None)


def _prepare(executor, model, noise_shape, conds, *rest, **named):
    options = named.get("model_options") or {}
    handler = options.get(HANDLER)
    if isinstance(handler, ClipWindows) and len(noise_shape) == 4:
        total = noise_shape[0]
        frames = frames_per_clip(options.get("transformer_options", {}), total)
        at_once = handler.context_length * (total // frames)
        if handler.covers_the_run:
            noise_shape = [min(total, at_once), *noise_shape[1:]]
    return executor(model, noise_shape, conds, *rest, **named)


def _sample(executor, guider, sigmas, extra_args, callback, noise, *rest, **named):
    options, sampling = extra_args.get("model_options", {}), guider.inner_model.model_sampling
    noise = noise_for_windows(noise, options, sigmas, sampling, extra_args.get("seed") or 0)
    return executor(guider, sigmas, extra_args, callback, noise, *rest, **named)


def check_run(model: Any, options: dict, conds: dict, total: int, sigmas: Tensor) -> None:
    """Refuse what would give a wrong clip or an error in the middle of the work.

    Args:
        model: the MODEL.
        options: its `model_options`.
        conds: name -> conds of the run.
        total: frames of the whole batch.
        sigmas: of the run.

    Raises:
        ValueError: windows longer than the position table, steps without windows for a clip longer than it, hints of
            another number than the frames, settings of ComfyUI's own windows that go wrong on this model.
    """
    handler = options[HANDLER]
    rows = model.model.diffusion_model.core.config.motion_max_seq_length
    frames = frames_per_clip(options["transformer_options"], total)
    if isinstance(handler, ClipWindows):
        cut = _check_own(handler, frames, rows, sigmas.tolist(), model.get_model_object("model_sampling"))
    elif isinstance(handler, IndexListContextHandler):
        cut = total > handler.context_length
        if cut:
            _check_core(handler, frames, total, rows, len(sigmas) - 1)
    else:
        return
    if cut:
        for cond in (cond for group in conds.values() for cond in group):
            check_hints(cond.get("control"), frames, total)


def check_length(length: int, rows: int) -> None:
    """Raise ValueError unless the position table has a row for each frame of a window."""
    if length > rows:
        raise ValueError(
            f"`length` is {length}, but the motion module knows {rows} positions; use windows of at most {rows} "
            f"frames, or `position_interpolate` {length} in Load Motion Module."
        )


def _check_own(handler: ClipWindows, frames: int, rows: int, sigmas: Sequence[float], sampling: Any) -> bool:
    """Whether any step of the run is cut into windows."""
    steps, cut = max(1, len(sigmas) - 1), False
    for step in range(steps):
        part = handler.part_at(sigmas[step], sampling)
        if part is not None and part.windows.apply_to(frames):
            check_length(part.windows.length, rows)
            cut = True
        elif part is not None and frames > rows:
            check_length(part.windows.length, rows)
        elif frames > rows:
            raise ValueError(
                f"no context windows are set for step {step + 1} of {steps}, but the clip has {frames} frames and the "
                f"motion module knows {rows} positions: let another {OWN_NODE} cover that part of the sampling."
            )
    return cut


def _check_core(handler: IndexListContextHandler, frames: int, total: int, rows: int, steps: int) -> None:
    length, overlap, schedule = handler.context_length, handler.context_overlap, handler.context_schedule.name
    fault = None
    if handler.dim != 0:
        fault = f"`dim` is {handler.dim}, but the frames of this model are the batch: set `dim` to 0"
    elif frames != total:
        fault = f"it takes {total // frames} clips in one batch for one: use {OWN_NODE}"
    elif overlap >= length and schedule != "batched":
        fault = f"`context_overlap` is {overlap}, expected less than `context_length`, which is {length}"
    elif length > rows:
        fault = f"`context_length` is {length}, but the motion module knows {rows} positions"
    elif length == rows and getattr(handler, "causal_window_fix", False):
        fault = (
            f"`causal_window_fix` puts one frame more into windows of {length}, but the motion module knows {rows} "
            "positions: switch `causal_window_fix` off"
        )
    elif handler.fuse_method.name == "overlap-linear" and overlap == 0:
        fault = "`fuse_method` overlap-linear needs a `context_overlap` of at least 1, found 0"
    elif not _reads_frames(handler):
        fault = f"this ComfyUI's windows do not run where frames are the batch: use {OWN_NODE}"
    else:
        fault = _fault_of_lists(handler, frames, steps)
    if fault:
        raise ValueError(f"{CORE_NODE}: {fault}.")


def _reads_frames(handler: IndexListContextHandler) -> bool:
    """Whether a handler finds its step when it is given a timestep for each frame."""
    sigmas = torch.tensor([2.0, 1.0])
    try:
        copy.copy(handler).set_step(sigmas[:1].expand(3), {"transformer_options": {"sample_sigmas": sigmas}})
    except Exception:
        return False
    return True


def _fault_of_lists(handler: IndexListContextHandler, frames: int, steps: int) -> str | None:
    """What is wrong with the windows of a step, or None."""
    for step in range(max(1, steps)):
        asked = SimpleNamespace(
            context_length=handler.context_length, context_overlap=handler.context_overlap,
            context_stride=handler.context_stride, closed_loop=handler.closed_loop, _step=step,
        )  # fmt: skip
        lists = [[int(frame) for frame in window] for window in handler.context_schedule.func(frames, asked, {})]
        if any(len(set(window)) < len(window) for window in lists):
            found = "a window holds a frame twice"
        elif any(max(window) >= frames for window in lists):
            found = "a window leaves the clip"
        elif set().union(*lists) != set(range(frames)):
            found = f"frame {min(set(range(frames)).difference(*lists))} is in no window"
        else:
            continue
        return (
            f"in step {step + 1} {found} with `context_stride` {handler.context_stride} and `context_overlap` "
            f"{handler.context_overlap} for {frames} frames: use {OWN_NODE}, or `context_stride` 1 and some overlap"
        )
    return None
