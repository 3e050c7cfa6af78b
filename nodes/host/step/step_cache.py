"""Fewer full steps of a MODEL: the state of a run, and where ComfyUI's calls of the model use it.

The unconditional half is left out where ComfyUI makes a batch of conds; the deep part of the network where the UNet is
called, whose batch holds some of the conds, or one of several devices' share of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch import Tensor

from ....unet_motion.sampling.step_cache import RunCache, StepCache
from ....unet_motion.sampling.step_cache.settings import KEPT, OFF
from ..page.notices import say_on_node
from .context_windows import STEP_CACHE, step_of
from .hooks import OVERRIDE
from .performance import parts_of
from .varying import frames_of_window

WRAPPER = "unet_motion_step_cache"

log = logging.getLogger(__name__)


class HostRun(RunCache):
    """The state of one run of a MODEL; its steps are told by ComfyUI's noise levels."""

    def __init__(self, settings: StepCache) -> None:
        super().__init__(settings)
        self._sigmas: list[float] = []
        self._sigma: float | None = None
        self._calls: dict[Hashable, int] = {}
        self._lock = threading.Lock()  # windows may be computed on several devices at a time

    def at(self, transformer_options: dict, sigma: float) -> None:
        """A call of the model at a noise level begins; a step behind the present one begins a new run."""
        given = transformer_options.get("sample_sigmas")
        sigmas = [sigma] if given is None else given.tolist()
        with self._lock:
            if sigmas != self._sigmas:
                self._sigmas, self._sigma = sigmas, None
                self.begin(max(1, len(sigmas) - 1))
            if sigma == self._sigma:
                return
            self._sigma = sigma
            self._calls.clear()
            number = step_of(sigmas, sigma)
            if number < self.now.number:
                self.clear()
            self.go_to(number)

    def numbered(self, key: Hashable) -> tuple[Hashable, int]:
        """A key with how often it was there at this noise level: nodes may call the model twice with the same cond."""
        with self._lock:
            self._calls[key] = number = self._calls.get(key, -1) + 1
        return key, number


def set_step_cache(model: Any, cache: StepCache | None) -> Any:
    """A clone of a MODEL whose runs have a step cache, or none."""
    clone = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.CALC_COND_BATCH):
        clone.remove_wrappers_with_key(kind, WRAPPER)
    if cache is not None and not cache.is_idle:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, _outer(cache))
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, WRAPPER, _of_conds)
    return clone


def _outer(cache: StepCache) -> Callable:
    def wrapper(executor, *arguments, **named):
        model_options = executor.class_obj.model_options
        options = model_options["transformer_options"]
        if cache.interval > 1 and TORCH_COMPILE_KWARGS in model_options:
            log.warning("Step cache: compiled code keeps nothing, so that all layers run in each step.")
        run = options[STEP_CACHE] = HostRun(cache)
        try:
            found = executor(*arguments, **named)
        finally:
            run.clear()
            options.pop(STEP_CACHE, None)
        told = f"Step cache: {run.report}."
        log.info("%s", told)
        say_on_node(told)
        return found

    return wrapper


def _of_conds(executor, base, conds, x, timestep, model_options):
    """A batch of conds, without the unconditional one where the step needs none."""
    options = model_options.get("transformer_options", {})
    run = options.get(STEP_CACHE)
    if run is None:
        return executor(base, conds, x, timestep, model_options)
    run.at(options, float(timestep.flatten()[0]))
    if len(conds) != 2 or any(cond is None for cond in conds):
        return executor(base, conds, x, timestep, model_options)  # no guidance, or more than two conds take part in it
    if run.now.guidance == OFF:
        run.report.count("halves_off")
        found = executor(base, [conds[0], None], x, timestep, model_options)[0]
        return [found, found.clone()]
    if run.settings.guidance_interval == 1:
        return executor(base, conds, x, timestep, model_options)
    key = run.numbered((_uuids(conds), *_place(options, x)))
    factor = _output_factor(base.model_sampling, timestep)
    kept = run.kept_difference(key) if run.now.guidance == KEPT else None
    if kept is not None:
        run.report.count("halves_kept")
        found = executor(base, [conds[0], None], x, timestep, model_options)[0]
        return [found, found - kept * factor]
    found = executor(base, conds, x, timestep, model_options)
    run.keep_difference(key, (found[0] - found[1]) / factor)
    return found


def _output_factor(sampling: Any, timestep: Tensor) -> Tensor:
    """What a prediction is multiplied with in the clean latents, which ComfyUI's conds are given as: (1, 1, 1, 1)."""
    sigma = timestep.flatten()[:1]
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float32, device=sigma.device)
    return sampling.calculate_denoised(sigma, zero + 1, zero) - sampling.calculate_denoised(sigma, zero, zero)


def _uuids(conds: Sequence[list[dict]]) -> tuple:
    return tuple(tuple(cond.get("uuid") for cond in group) for group in conds)


def _place(options: dict, x: Tensor) -> tuple:
    """Which latents a batch is of."""
    return tuple(frames_of_window(options.get("context_window")) or ()), tuple(x.shape[1:]), str(x.device)


def cached_step(view: Any, chosen: dict, x: Tensor, control: dict | None, options: dict, step: Callable) -> Callable:
    """What runs a step of a view's core, as `forward_frames`: the given function, or parts of the step by the cache.

    Args:
        chosen: the pack's settings of the call.
        x: latents (conds * frames, C, H, W).
        step: without a cache.
    """
    run = options.get(STEP_CACHE)
    if run is None or torch.compiler.is_compiling():
        return step
    if run.settings.interval == 1:
        run.report.count("full")
        return step
    full, shallow = parts_of(view, chosen, run.settings.layers)
    keys = [run.numbered(key) for key in _keys(view, chosen, x, control, options)]

    def cached(*inputs: Any, **call: Any) -> Tensor:
        return run.compute(keys, lambda: full(*inputs, **call), lambda deep: shallow(*inputs, deep=deep, **call))

    return cached


def _keys(view: Any, chosen: dict, x: Tensor, control: dict | None, options: dict) -> list[Hashable]:
    """What the deep part is computed from, for each cond of a batch: nothing of another may take its place."""
    numbers = options.get("cond_or_uncond") or [0]
    uuids = options.get("uuids") or [None] * len(numbers)
    rows = len(x) // len(numbers)
    rest = (*_place(options, x), rows, id(view), bool(control), "views" in chosen, _patches(options))
    return [(number, uuid, *rest) for number, uuid in zip(numbers, uuids, strict=True)]


def _patches(options: dict) -> tuple:
    """The patches of a call: guidance by attention calls the model with others of the same conds."""
    found = [(name, *map(id, patches)) for name, patches in options.get("patches", {}).items()]
    for name, replaced in options.get("patches_replace", {}).items():
        found += [(name, place, id(patch)) for place, patch in replaced.items()]
    return tuple(found), id(options.get(OVERRIDE))
