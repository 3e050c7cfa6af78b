"""The motion UNet as an ordinary ComfyUI MODEL."""

from __future__ import annotations

import contextlib
import inspect
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.cli_args import args
from torch import Tensor

from ....unet_motion import UNetMotionConfig, UNetMotionModel
from ....unet_motion.sampling.parts import default_dtype
from ..step.advice import look_before_sampling
from ..step.performance import free_graphs_with
from ..step.preview import show_while_sampling
from ..step.settings import pass_settings, publish_before_control
from ..step.window_run import watch_windows
from .ldm_view import LDMView
from .saving import describe_when_saved
from .unet_config import to_comfy

UNET_PREFIX = "diffusion_model."

DTYPE_OPTIONS = (
    "force_fp32", "force_fp16", "fp64_unet", "fp32_unet", "bf16_unet", "fp16_unet",
    "fp8_e4m3fn_unet", "fp8_e5m2_unet", "fp8_e8m0fnu_unet",
)  # fmt: skip
"""ComfyUI's start options that say what a UNet is in."""

FP8 = tuple(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu") if hasattr(torch, name))
POSITIONS = ".pos_embed.pe"
"""End of the names of position tables, which keep their dtype: rounded, neighbouring frames are hard to tell apart."""


def sampling_settings(beta_schedule: str, start: float = 0.00085, end: float = 0.012) -> dict[str, Any]:
    """ComfyUI's sampling settings of one of its beta schedules, by default with Stable Diffusion's range."""
    return {"beta_schedule": beta_schedule, "linear_start": start, "linear_end": end}


class MotionConfig(comfy.supported_models_base.BASE):
    """ComfyUI's description of a motion UNet that is loaded by this pack."""

    unet_extra_config = {}
    latent_format = comfy.latent_formats.SD15
    # Activations of the spatial layers as in SD1.5; the temporal layers run one at a time on tensors of the same size.
    memory_usage_factor = 1.2


class MotionXLConfig(comfy.supported_models.SDXL):
    """As :class:`MotionConfig`, of a UNet made from an SDXL model: text encoders are saved under SDXL's names."""

    unet_extra_config = {}
    memory_usage_factor = comfy.supported_models.SDXL.memory_usage_factor * MotionConfig.memory_usage_factor


class MotionModel(comfy.model_base.BaseModel):
    """BaseModel that turns the pooled text into the vector of models with a label embedding.

    Args:
        pooled_vector: pooled text (N, P) -> vector (N, D), or None for models without one.
    """

    def __init__(
        self, config: MotionConfig, model_type=comfy.model_base.ModelType.EPS, device=None,
        unet_model: Callable | None = None, pooled_vector: Callable | None = None,
    ):  # fmt: skip
        super().__init__(config, model_type, device=device, unet_model=unet_model)
        self.pooled_vector = pooled_vector

    def encode_adm(self, **kwargs) -> Tensor | None:
        if self.pooled_vector is None:
            return None
        pooled = kwargs.get("pooled_output")
        if pooled is None:
            raise ValueError("the conditioning has no pooled text; encode the prompt with the CLIP of the same loader.")
        return self.pooled_vector(pooled.to(kwargs["device"]))


@dataclass(frozen=True)
class Source:
    """A UNet ready to become a MODEL.

    Attributes:
        config: of the core.
        weights: by the core's names.
        sampling: see :func:`sampling_settings`.
        latent_format: class of ComfyUI.
        pooled_vector: see :class:`MotionModel`.
        model_type: of ComfyUI, what the UNet predicts.
        inpaint: whether a mask and the masked picture are part of the UNet's input.
        base: class of ComfyUI that brings a vector of text and size of its own (SDXL), or None.
    """

    config: UNetMotionConfig
    weights: dict[str, Tensor]
    sampling: dict[str, Any]
    latent_format: type = comfy.latent_formats.SD15
    pooled_vector: Callable | None = field(default=None, repr=False)
    model_type: comfy.model_base.ModelType = comfy.model_base.ModelType.EPS
    inpaint: bool = False
    base: type | None = None


def cast_weights(module: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A layer's weight and bias on the device and in the dtype of x, with ComfyUI's patches applied."""
    weight, bias = comfy.ops.cast_bias_weight(module, x)
    return weight, bias


def empty_view(config: UNetMotionConfig, operations: Any, dtype: torch.dtype) -> LDMView:
    """The view of a core without storage."""
    core = UNetMotionModel(
        **{name: config[name] for name in config.field_names()},
        operations=operations,
        weights=cast_weights,
        dtype=dtype,
        device="meta",
    )
    return LDMView(core, dtype)


def patcher_class(disable_dynamic: bool) -> type:
    """ComfyUI's current model patcher; resolved late because the server chooses it at start."""
    plain = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def _own_model(source: Source, config: MotionConfig, dtype: torch.dtype, device: torch.device) -> MotionModel:
    def unet_model(device=None, operations=None, **_):
        return empty_view(source.config, operations, dtype)

    return MotionModel(config, source.model_type, device, unet_model, source.pooled_vector)


def computed_in(weights: torch.dtype, device: torch.device, supported: list[torch.dtype]) -> torch.dtype | None:
    """What a UNet with such weights computes in on a device; None: what they are in.

    ComfyUI's choice, which is float32 on every CPU. Where the library would take bfloat16, so does a MODEL, unless a
    start option of ComfyUI's names a dtype; core's node Model Compute Dtype chooses for one MODEL. The weights stay as
    they are: what is saved, merged or patched loses nothing.
    """
    if default_dtype(device) == torch.bfloat16 and not any(getattr(args, name, False) for name in DTYPE_OPTIONS):
        return torch.bfloat16
    return mm.unet_manual_cast(weights, device, supported)


def build_model(source: Source, disable_dynamic: bool = False) -> Any:
    """A MODEL (ModelPatcher) over the source's weights; a weight that needs no other dtype is shared, not copied."""
    load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    config = (MotionConfig if source.base is None else MotionXLConfig)(to_comfy(source.config))
    config.sampling_settings = dict(source.sampling)
    config.latent_format = source.latent_format()
    dtype = mm.unet_dtype(
        model_params=comfy.utils.calculate_parameters(source.weights),
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(source.weights),
    )
    config.set_inference_dtype(dtype, computed_in(dtype, load_device, config.supported_inference_dtypes))
    if source.base is None:
        model = _own_model(source, config, dtype, offload_device)
    else:
        model = _without_unet(source.base, config, source.model_type, offload_device)
        _set_view(model, source.config, operations_of(model), dtype)
    if source.inpaint:
        model.set_inpaint()
    describe_when_saved(model, source.config)
    patcher = patcher_class(disable_dynamic)(model, load_device=load_device, offload_device=offload_device)
    weights = {
        name: tensor.to(offload_device, None if name.endswith(POSITIONS) else dtype)
        for name, tensor in source.weights.items()
    }
    model.diffusion_model.core.load_state_dict(weights, strict=True, assign=True)
    model.diffusion_model.requires_grad_(False).eval()
    publish_before_control(patcher)
    pass_settings(patcher)
    show_while_sampling(patcher)
    look_before_sampling(patcher)
    free_graphs_with(patcher)
    watch_windows(patcher)
    return patcher


@contextlib.contextmanager
def _without_injections(base: torch.nn.Module) -> Iterator[None]:
    """A model without the layers that other packs put between its own while it is loaded; they are put back after."""
    holders = [item.model for item in mm.current_loaded_models if item.model is not None and item.model.model is base]
    with contextlib.ExitStack() as stack:
        for patcher in holders:
            stack.enter_context(patcher.use_ejected())
        yield


def original_weights(model: Any) -> dict[str, Tensor]:
    """A MODEL's UNet weights by their latent-diffusion names, as they are without LoRAs and other patches."""
    found = {}
    with _without_injections(model.model):
        weights = model.model_state_dict(UNET_PREFIX)
    for key, weight in weights.items():
        if key in model.backup:
            weight = model.backup[key].weight
        elif key in model.hook_backup:
            weight = model.hook_backup[key][0]
        found[key[len(UNET_PREFIX) :]] = weight.detach().to(model.offload_device)
    return found


def operations_of(base: torch.nn.Module) -> Any:
    """The layers that ComfyUI chose for a model, as `BaseModel` chooses them."""
    config = base.model_config
    if config.custom_operations is not None:
        return config.custom_operations
    extra = {"fp8_optimizations": config.optimizations.get("fp8", False)}
    known = inspect.signature(comfy.ops.pick_operations).parameters
    if "model_config" in known:
        extra["model_config"] = config
    if "scaled_fp8" in known:
        extra["scaled_fp8"] = config.scaled_fp8
    return comfy.ops.pick_operations(config.unet_config.get("dtype"), base.manual_cast_dtype, **extra)


def _without_unet(kind: type, settings: Any, model_type: Any, device: Any) -> torch.nn.Module:
    """A model of one of ComfyUI's classes before it has a UNet."""
    settings.unet_config["disable_unet_model_creation"] = True
    model = kind(settings, model_type=model_type, device=device)
    del settings.unet_config["disable_unet_model_creation"]
    return model


def _set_view(model: torch.nn.Module, config: UNetMotionConfig, operations: Any, dtype: torch.dtype) -> None:
    view = empty_view(config, operations, dtype)
    # Newer versions load weights in the file's dtype and cast them to the noted one when they are used.
    getattr(mm, "archive_model_dtypes", lambda _: None)(view)
    model.diffusion_model = view.requires_grad_(False).eval()


def motion_base_model(base: torch.nn.Module, config: UNetMotionConfig, sampling: dict[str, Any]) -> torch.nn.Module:
    """A model of the base's own class and settings around an empty view of a motion UNet.

    Args:
        base: ComfyUI's BaseModel of an SD1.5 or SDXL UNet.
        sampling: see :func:`sampling_settings`.
    """
    # Not copy.copy: ComfyUI's configurations answer every attribute, `__setstate__` too.
    settings = object.__new__(type(base.model_config))
    settings.__dict__.update(vars(base.model_config))
    settings.unet_config = dict(base.model_config.unet_config)
    if not isinstance(base.diffusion_model, LDMView):
        settings.memory_usage_factor = base.memory_usage_factor * MotionConfig.memory_usage_factor
    settings.sampling_settings = {**base.model_config.sampling_settings, **sampling}
    model = _without_unet(type(base), settings, base.model_type, base.device)
    _set_view(model, config, operations_of(base), base.get_dtype())
    if base.concat_keys:
        model.set_inpaint()
    describe_when_saved(model, config)
    return model


def with_model(base: Any, model: torch.nn.Module) -> Any:
    """A clone of a MODEL, with all patches, hooks and options that it carries, around another model."""
    if "model_override" in inspect.signature(base.clone).parameters:
        clone = base.clone(model_override=(model, ({}, {}, {}, set())))
    else:
        fresh = type(base)(model, base.load_device, base.offload_device)
        clone = base.clone()
        clone.model, clone.backup, clone.object_patches_backup = model, fresh.backup, fresh.object_patches_backup
    clone.hook_backup = {}
    clone.cached_hook_patches = {}
    clone.size = 0
    # The parent takes over a loaded model when its clone is gone; this is no clone of the parent's model.
    clone.parent = None
    clone.clone_base_uuid = uuid.uuid4()
    publish_before_control(clone)
    pass_settings(clone)
    show_while_sampling(clone)
    look_before_sampling(clone)
    free_graphs_with(clone)
    watch_windows(clone)
    return clone
