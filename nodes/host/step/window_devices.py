"""Windows of one step, each on one of the devices that hold a copy of the MODEL, where ComfyUI made such copies.

ComfyUI spreads the conds of a call over its copies, which leaves devices without work where there are more of them than
conds. Windows are as many as the clip is long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from .window_hints import chain, follows_frames

CLONES, POOL = "multigpu_clones", "multigpu_thread_pool"
DEVICE = "multigpu_thread_device"
"""Where ComfyUI says, in `transformer_options`, which device a call of a run on several devices is for."""


@dataclass(frozen=True, eq=False)
class DeviceCall:
    """A call of the model on latents x (rows, C, h, w) at sigmas (rows,).

    Attributes:
        calc_cond_batch: of ComfyUI.
        model: ComfyUI's BaseModel.
        conds: as ComfyUI's samplers hold them.
        model_options: of the MODEL.
    """

    calc_cond_batch: Callable[..., list[Tensor]]
    model: Any
    conds: Sequence[list | None]
    x: Tensor
    timestep: Tensor
    model_options: dict

    def run(self) -> list[Tensor]:
        """What the model predicts for each of the conds, on the device of x, or spread over all as ComfyUI does it."""
        return self.calc_cond_batch(self.model, self.conds, self.x, self.timestep, self.model_options)

    @property
    def devices(self) -> list[torch.device]:
        """Those that may take windows: one, where ComfyUI made no copies or where calls have to stay together."""
        clones = self.model_options.get(CLONES) or {}
        apart = self.model_options.get(POOL) is not None and not any(map(_stays, self.conds))
        return list(clones) if clones and apart else [self.x.device]

    def in_turn(self, calls: Sequence[Callable[[], DeviceCall]]) -> Iterator[list[Tensor]]:
        """What calls give, in their order; as many run at once as there are devices.

        Those that are left over for fewer devices run one by one, and ComfyUI spreads their conds.
        """
        devices, done = self.devices, 0
        while len(devices) > 1 and len(calls) - done >= len(devices):
            comfy.model_management.throw_exception_if_processing_interrupted()
            yield from self._side_by_side(devices, [make() for make in calls[done : done + len(devices)]])
            done += len(devices)
        for make in calls[done:]:
            comfy.model_management.throw_exception_if_processing_interrupted()
            yield make().run()

    def _side_by_side(self, devices: Sequence[torch.device], calls: Sequence[DeviceCall]) -> list[list[Tensor]]:
        pool, inference = self.model_options[POOL], torch.is_inference_mode_enabled()
        for device, call in zip(devices, calls, strict=True):
            pool.submit(device, call._on, device, inference)
        # Each device's answer is taken, also behind an error: it would be the next call's.
        answers = [pool.get_result(device) for device in devices]
        for _, error in answers:
            if error is not None:
                raise error
        return [found for found, _ in answers]

    def _on(self, device: torch.device, inference: bool) -> list[Tensor]:
        """The call on one device, in its own thread, where neither modes nor the current device are inherited."""
        with torch.inference_mode(inference), torch.no_grad():
            found = self._moved(device).run()
            return [rows.to(self.x.device) for rows in found]

    def _moved(self, device: torch.device) -> DeviceCall:
        options = {name: value for name, value in self.model_options.items() if name not in (CLONES, POOL)}
        inner = dict(options["transformer_options"])
        if "sample_sigmas" in inner:
            inner["sample_sigmas"] = inner["sample_sigmas"].to(device)
        inner[DEVICE] = device
        for name in ("patches", "patches_replace"):
            if name in inner:
                inner[name] = _patches_on(inner[name], device)
        return replace(
            self,
            model=self.model_options[CLONES][device].model,
            conds=[None if group is None else [_cond_on(cond, device) for cond in group] for group in self.conds],
            x=self.x.to(device),
            timestep=self.timestep.to(device),
            model_options={**options, "transformer_options": inner},
        )


def _stays(group: list | None) -> bool:
    """Whether conds hold what two devices cannot use at the same time: hooks, GLIGEN, what others look up."""
    return any(
        cond.get("hooks") is not None
        or "gligen" in cond
        or any(follows_frames(item) for item in chain(cond.get("control")))
        for cond in group or ()
    )


def _cond_on(cond: dict, device: torch.device) -> dict:
    control = cond.get("control")
    return cond if control is None else {**cond, "control": control.get_instance_for_device(device)}


def _patches_on(patches: Any, device: torch.device) -> Any:
    """Patches in lists and dicts, those that can be moved on a device."""
    if isinstance(patches, dict):
        return {name: _patches_on(patch, device) for name, patch in patches.items()}
    if isinstance(patches, list):
        return [_patches_on(patch, device) for patch in patches]
    return patches.to(device) if hasattr(patches, "to") else patches
