"""The network whose steps are measured, here and in diffusers, and the ways in which a step of it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ... import ForwardOptions, StepGraphs, UNetMotionModel
from ...kernels import use
from ..cases import NotMeasured
from ..nets import Inputs, make_inputs, randomise, text_width_of
from .sizes import Sizes

MOTION = "*motion_modules*"


def build(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> UNetMotionModel:
    """Our network with random weights, drawn where it stays."""
    unet = UNetMotionModel(**config, device="meta").to(dtype).to_empty(device=device)
    randomise(unet)
    unet.eval().requires_grad_(False)
    unet.arrange_weights()
    return unet


def build_theirs(ours: UNetMotionModel, config: Mapping[str, Any]) -> Any:
    """diffusers' network, which shares our weights.

    Raises:
        NotMeasured: diffusers, or something that it needs, is not installed.
    """
    try:
        from diffusers import UNetMotionModel as DiffusersUNetMotionModel
    except (ImportError, RuntimeError) as error:  # diffusers tells of what it lacks by either
        raise NotMeasured(f"diffusers cannot be imported: {str(error).splitlines()[0]}") from None
    with torch.device("meta"):
        unet = DiffusersUNetMotionModel(**config)
    unet.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return cast(Any, unet).to(ours.device).eval().requires_grad_(False)


def recorder_for(device: torch.device) -> Callable | None:
    """None, for CUDA's own; without a card what stands in for it: it runs the recorded work again."""
    if device.type == "cuda":
        return None

    def record(work: Callable[[], Tensor], _: torch.device):
        out = work()
        return (lambda: out.copy_(work())), out

    return record


@dataclass
class Steps:
    """The ways of a step: by name a function of the inputs that gives (B*F, C, H, W).

    Attributes:
        without: why diffusers' network is not there, where it is not.
        kernels: options of a step on the kernels.
    """

    ours: UNetMotionModel
    theirs: Callable[..., Any] | None
    without: str = ""
    kernels: ForwardOptions = field(default_factory=lambda: ForwardOptions(attn_processors={MOTION: "triton"}))

    def __post_init__(self) -> None:
        self.graphs = StepGraphs(self.ours, recorder=recorder_for(self.ours.device))

    def ways(self) -> dict[str, Callable[[Inputs], Tensor]]:
        found = {
            "plain": lambda given: self.step(given, "eager"),
            "kernels": lambda given: self.step(given, "triton", self.kernels),
            "kernels and graph": lambda given: self.step(given, "triton", self.kernels, self.graphs),
        }
        if self.theirs is not None:
            found["diffusers"] = self.step_of_theirs
        return found

    @torch.no_grad()
    def step(
        self, given: Inputs, mode: str, options: ForwardOptions | None = None, call: Callable | None = None
    ) -> Tensor:
        """A step of ours on the kernels of a mode, captured where ``call`` are graphs."""
        rows = given.sample.transpose(1, 2).flatten(0, 1)
        call = self.ours.forward_frames if call is None else call
        with use(mode):
            return call(rows, given.timestep, given.text, given.frames, options=options)

    @torch.no_grad()
    def step_of_theirs(self, given: Inputs) -> Tensor:
        """diffusers wants the text once per frame."""
        text = given.text.repeat_interleave(given.frames, dim=0)
        assert self.theirs is not None
        return self.theirs(given.sample, given.timestep, text).sample.transpose(1, 2).flatten(0, 1)


def steps_of(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Steps:
    ours = build(sizes.network, device, dtype)
    try:
        return Steps(ours, build_theirs(ours, sizes.network))
    except NotMeasured as reason:
        return Steps(ours, None, str(reason))


def inputs_of(sizes: Sizes, side: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    width = text_width_of(UNetMotionModel.config_class(**sizes.network))
    return make_inputs(sizes.batch, sizes.frames, side, width, device, dtype)
