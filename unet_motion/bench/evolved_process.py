"""The process that times a step beside AnimateDiff-Evolved's: started by `evolved.py` with a request in JSON."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..formats.names.animatediff import diffusers_to_animatediff
from ..formats.names.ldm import diffusers_to_ldm
from ..model.transformer import SpatialTransformer
from ..model.unet_motion_model import UNetMotionModel
from ..ops.group_norm import scoped_group_norm
from .cases import Bench, Row, step_of_ours
from .measure import Ceilings, Work
from .nets import WIDTHS, Inputs, make_inputs, our_unet, text_width_of

MODULES = "unet_motion_bench.safetensors"
PACK = "animatediff_evolved"


class ClipNorm(nn.Module):
    """A group norm whose statistics are always those of whole clips."""

    def __init__(self, norm: nn.GroupNorm, frames: int) -> None:
        super().__init__()
        self.norm, self.frames = norm, frames
        # A norm that somebody watches is called, not fused.
        self.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        return scoped_group_norm(self.norm, x, self.frames, "clip")


def norm_over_clips(unet: UNetMotionModel, frames: int) -> None:
    """The norms before the attention of pixels too: the pack's way for v1 replaces every norm there is."""
    for module in list(unet.modules()):
        if isinstance(module, SpatialTransformer):
            module.register_module("norm", ClipNorm(module.norm, frames))


def import_comfyui(folder: str, device: torch.device, dtype: torch.dtype) -> None:
    """Put ComfyUI into this process with the options that its command line would get for the device and dtype."""
    sys.path.insert(0, folder)
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    # What it takes on NVIDIA anyway; on a CPU its own choice is slower, also in the pack's motion modules.
    args.use_pytorch_cross_attention = True
    args.fp32_unet, args.fp16_unet, args.bf16_unet = (
        dtype == kind for kind in (torch.float32, torch.float16, torch.bfloat16)
    )
    import comfy.sd  # noqa: F401


def import_pack(folder: Path) -> ModuleType:
    """Import the pack as ComfyUI does."""
    spec = importlib.util.spec_from_file_location(
        PACK, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])
    return sys.modules[PACK]


def comfyui_model(ours: UNetMotionModel, dtype: torch.dtype) -> Any:
    """ComfyUI's MODEL of the image layers, loaded by ComfyUI from Stable Diffusion's names."""
    import comfy.sd
    import comfy.supported_models

    width = ours.config.block_out_channels[0]

    class OtherWidth(comfy.supported_models.SD15):
        unet_config = {**comfy.supported_models.SD15.unet_config, "model_channels": width}

    if width != comfy.supported_models.SD15.unet_config["model_channels"]:
        comfy.supported_models.models.append(OtherWidth)
    state = diffusers_to_ldm(ours.state_dict(), ours.config, "model.diffusion_model.")
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    model = comfy.sd.load_diffusion_model_state_dict(state, {"dtype": dtype})
    if model is None:
        raise ValueError(f"ComfyUI knows no UNet of {width} channels with these names")
    return model


def with_motion(pack: ModuleType, model: Any, ours: UNetMotionModel, folder: Path, scope: str) -> Any:
    """The MODEL with the motion modules, loaded by the pack's own node from AnimateDiff's names."""
    import folder_paths

    motion = {name: tensor for name, tensor in ours.state_dict().items() if ".motion_modules." in name}
    named = {name: tensor.cpu().clone() for name, tensor in diffusers_to_animatediff(motion).items()}
    save_file(named, folder / MODULES)
    folder_paths.add_model_folder_path("animatediff_models", str(folder))

    # The pack has SD1.5's widths in its code.
    theirs = cast(Any, sys.modules[f"{PACK}.animatediff.motion_module_ad"])
    whole = theirs.MotionModule
    widths = dict(zip(WIDTHS["sd15"], ours.config.block_out_channels, strict=True))
    theirs.MotionModule = lambda channels, *rest, **named: whole(widths[channels], *rest, **named)
    try:
        loader = pack.NODE_CLASS_MAPPINGS["ADE_AnimateDiffLoaderGen1"]()
        moving = loader.load_mm_and_inject_params(model, MODULES, "linear (HotshotXL/default)")[0]
    finally:
        theirs.MotionModule = whole
    helper = sys.modules[f"{PACK}.animatediff.model_injection"].ModelPatcherHelper(moving)
    # Its switch for v2 modules: as they were trained, or with all norms over the clip as in v1.
    helper.get_params().apply_v2_properly = scope == "frame"
    return moving


def inside_a_step(model: Any, inputs: Inputs, measure: Callable[[Work], Row]) -> Row:
    """Start the pack's sampling, and in its first step measure the UNet as it stands there, with everything injected.

    The work is the UNet's forward only: what the pack does around it in every step is not counted.
    """
    import comfy.sample

    rows = inputs.sample.transpose(1, 2).flatten(0, 1).contiguous()
    context = inputs.text.repeat_interleave(inputs.frames, dim=0)
    batch = inputs.sample.shape[0]
    found: list[Row] = []

    def wrapper(_, given: dict) -> Tensor:
        if not found:
            unet = model.model.diffusion_model
            options = {**given["c"]["transformer_options"], "cond_or_uncond": list(range(batch))}
            timesteps = inputs.timestep.expand(rows.shape[0]).to(rows.dtype)

            def step() -> Tensor:
                out = unet(rows, timesteps, context=context, transformer_options=options)
                return out.unflatten(0, (batch, inputs.frames)).transpose(1, 2)

            found.append(measure(step))
        return torch.zeros_like(given["input"])

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    latent = torch.zeros(inputs.frames, *rows.shape[1:])
    text = [[torch.zeros(1, *context.shape[1:]), {}]]
    comfy.sample.sample(model, latent + 1, 1, 1.0, "euler", "normal", text, text, latent, disable_pbar=True, seed=0)
    return found[0]


@torch.inference_mode()
def measure(request: dict) -> list[Row]:
    """One row for each scope of the norms."""
    device, dtype = torch.device(request["device"]), getattr(torch, request["dtype"])
    torch.set_num_threads(request["threads"])
    bench = Bench(device, dtype, Ceilings(**request["ceilings"]), request["rounds"])
    WIDTHS[request["size"]] = tuple(request["widths"])
    import_comfyui(request["comfyui"], device, dtype)
    pack = import_pack(Path(request["evolved"]))
    frames, side, batch = request["frames"], request["side"], request["batch"]
    case = f"step {request['size']} {batch}x{frames}x{side}x{side}"
    rows = []
    for scope in request["scopes"]:
        ours = our_unet(request["size"], device, dtype, resnet_norm_scope=scope, motion_norm_scope=scope)
        model = with_motion(pack, comfyui_model(ours, dtype), ours, Path(request["folder"]), scope)
        inputs = make_inputs(batch, frames, side, text_width_of(ours.config), device, dtype)
        if scope == "clip":
            norm_over_clips(ours, frames)
        step = step_of_ours(ours, inputs)
        words = f"{case}, norms over the {scope}"

        def compare(theirs: Work, words: str = words, step: Work = step) -> Row:
            return bench.compare(words, "AnimateDiff-Evolved", step, theirs, request["target"])

        rows.append(inside_a_step(model, inputs, compare))
    return rows


def main() -> None:
    request = json.loads(sys.argv[1])
    rows = measure(request)
    Path(request["answer"]).write_text(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
