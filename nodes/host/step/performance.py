"""How a MODEL's UNet is run: kernels, CUDA graphs, compilation."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS
from torch import Tensor

from ....unet_motion import ForwardOptions, StepGraphs, UNetMotionModel
from ....unet_motion.kernels import report
from ....unet_motion.ops import dispatch, mode
from ....unet_motion.runtime.step_parts import StepParts
from .hooks import KEY
from .settings import settings

COMPILATIONS: dict[str, dict[str, Any]] = {
    "inductor": {},
    "inductor max-autotune": {"max_autotune": True, "coordinate_descent_tuning": True},
}
"""Name -> options of inductor."""

log = logging.getLogger(__name__)


class HostGraphs(StepGraphs):
    """CUDA graphs of a core whose weights ComfyUI loads, moves and patches."""

    def __init__(self, core: UNetMotionModel, **options: Any) -> None:
        super().__init__(core, **options)
        self._told: str | None = None

    def declines(self, sample: Tensor, options: ForwardOptions | None = None) -> str | None:
        reason = super().declines(sample, options)
        if reason != self._told and not torch.compiler.is_compiling():
            self._told = reason
            if reason is not None:
                log.warning("CUDA graphs are not used: %s.", reason)
        return reason

    def _declines_layers(self) -> str | None:
        device = self.unet.device
        for layer in self._layers:
            own = layer.__dict__  # where they are set; an nn.Module's getattr of what is not there takes microseconds
            if own.get("weight_function") or own.get("bias_function"):
                return "a LoRA is applied to weights while the model computes"
            weight = layer._parameters.get("weight")
            if "_v" in own or weight is not None and weight.device != device:
                return "weights are brought to the device while the model computes"
        return super()._declines_layers()


def step_of(view: Any, chosen: dict) -> Callable[..., Tensor]:
    """What runs a step of a view's core under the pack's settings of the call; as `forward_frames`."""
    if not chosen.get("cuda_graphs") or torch.compiler.is_compiling():
        return view.core.forward_frames
    if view.graphs is None:
        view.__dict__["graphs"] = HostGraphs(view.core)
    return view.graphs


def parts_of(view: Any, chosen: dict, layers: int) -> tuple[Callable, Callable]:
    """What runs a step of a view's core in two parts, and the second part alone: see :class:`StepParts`."""
    parts = StepParts(view.core, layers or None)
    if not chosen.get("cuda_graphs") or torch.compiler.is_compiling():
        return parts.full, parts.shallow
    if parts.layers not in view.part_graphs:
        view.part_graphs.clear()  # those of other layers: each holds the memory of a step
        both = (HostGraphs(view.core, step=step) for step in (parts.full, parts.shallow))
        view.part_graphs[parts.layers] = tuple(both)
    return view.part_graphs[parts.layers]


def kernels_of(chosen: dict) -> contextlib.AbstractContextManager:
    """The choice of kernels of the pack's settings of a call, for the time of the call.

    Where nothing is chosen, that of the environment's variable, else the kernels that are proven on the device.
    """
    # Compiled code has no kernels of ours, and no place for a choice.
    if torch.compiler.is_compiling():
        return contextlib.nullcontext()
    return mode.use(chosen.get("kernels") or mode.current_mode(mode.PROVEN))


def plain_clone(model: Any) -> Any:
    """A clone of a MODEL whose weights stay where they are loaded: newer versions can page them in and out."""
    known = inspect.signature(model.clone).parameters
    return model.clone(**{name: True for name in ("disable_dynamic",) if name in known})


def free_graphs_with(model: Any) -> None:
    """Make a MODEL give its graphs' memory back when it is taken from the device."""

    def free(patcher: Any, unloaded: bool = True) -> None:
        view = patcher.model.diffusion_model
        if unloaded:
            for graphs in (view.graphs, *(one for both in view.part_graphs.values() for one in both)):
                if graphs is not None:
                    graphs.clear()

    model.remove_callbacks_with_key(CallbacksMP.ON_DETACH, KEY)
    model.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, free)


def set_compilation(model: Any, name: str) -> None:
    """Compile a MODEL's UNet when it samples, with one of `COMPILATIONS`, or not at all with "off"."""
    if name == "off":
        model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
        model.model_options.pop(TORCH_COMPILE_KWARGS, None)
        return
    # What a step is made for comes in as an argument; guards on these dictionaries would compile every step anew.
    skip = {"guard_filter_fn": lambda entries: ["transformer_options" not in entry.name for entry in entries]}
    set_torch_compile_wrapper(model=model, backend="inductor", options={**skip, **COMPILATIONS[name]})


def is_compiled(model: Any) -> bool:
    """Whether a node, this pack's or another, has a MODEL's UNet compiled when it samples."""
    return bool(model.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY))


def report_of(model: Any) -> str:
    """What each operation of a MODEL runs as; of a compiled one nothing is proven, as it uses none of it."""
    # The dtype of its activations: that of its weights, or what ComfyUI or a node has them cast to.
    where = model.load_device, model.get_model_object("manual_cast_dtype") or model.model_dtype()
    if is_compiled(model):
        with mode.use("eager"):
            return f"Compiled by torch.compile, which fuses by itself: no kernels of this pack.\n{report(*where)}"
    with kernels_of(settings(model.model_options["transformer_options"])):
        return str(report(*where))


def why_not(device: torch.device, kernels: str, cuda_graphs: bool) -> str | None:
    """Which of the choices cannot run on a device, as a sentence, or None."""
    reason = dispatch.unavailable(device)
    if kernels == "triton" and reason:
        return f"`kernels` is 'triton', which cannot run on {device}: {reason}."
    if cuda_graphs and device.type != "cuda":
        return f"`cuda_graphs` is on, but there are no CUDA graphs on {device}; turn it off."
    return None
