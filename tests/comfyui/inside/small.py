"""Small SD1.5-structured models of ComfyUI, and motion modules for them."""

from __future__ import annotations

import functools

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import torch
from pack.unet_motion import MotionAdapter
from pack.unet_motion.formats import MotionModule

CPU = torch.device("cpu")
WIDTHS = (32, 64, 128, 128)
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "num_heads": 8, "num_head_channels": -1,
    "use_linear_in_transformer": False, "use_spatial_transformer": True, "use_temporal_attention": False,
    "use_temporal_resblock": False, "adm_in_channels": None, "legacy": False, "dtype": torch.float32,
}  # fmt: skip


def fill(module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights that keep activations near 1, and norms away from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.data.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.data.copy_(0.2 * noise + (1 if name.endswith("weight") else 0))
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


WEIGHTS: dict[tuple, dict[str, torch.Tensor]] = {}


def sd15(manual_cast: torch.dtype | None = None, **changes) -> comfy.model_patcher.ModelPatcher:
    """A new MODEL of ComfyUI with an SD1.5-structured UNet of 32 to 128 channels and always the same weights.

    Args:
        manual_cast: the dtype to compute in, where it is not that of the weights.
    """
    unet = {**UNET, **changes}
    config = comfy.supported_models.SD15(unet)
    config.unet_config = unet
    config.manual_cast_dtype = manual_cast
    model = comfy.model_base.BaseModel(config, device=CPU)
    key = tuple(sorted((name, str(value)) for name, value in changes.items() if name != "dtype"))
    if key in WEIGHTS:
        model.diffusion_model.load_state_dict(WEIGHTS[key])
    else:
        WEIGHTS[key] = fill(model.diffusion_model)
    model.diffusion_model.requires_grad_(False).eval()
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


@functools.lru_cache
def motion_module(active: bool = True, widths: tuple[int, ...] = WIDTHS, **config) -> MotionModule:
    """Motion modules; inactive ones have the zero output that new modules have."""
    adapter = MotionAdapter(block_out_channels=widths, **config)
    fill(adapter, seed=1)
    if not active:
        for name, parameter in adapter.named_parameters():
            if ".proj_out." in name:
                parameter.data.zero_()
    return MotionModule.from_adapter(adapter, "small_motion.safetensors")


def inputs(frames: int, height: int = 8, width: int = 12, conds: int = 2) -> dict:
    """Arguments of a diffusion model; the text differs between the conds, not between the frames."""
    rows = frames * conds
    return {
        "x": torch.randn(rows, 4, height, width),
        "timesteps": torch.full((rows,), 600.0),
        "context": torch.randn(conds, 7, 768).repeat_interleave(frames, dim=0),
    }


def options(conds: int = 2, **extra) -> dict:
    return {"cond_or_uncond": list(range(conds)), **extra}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
