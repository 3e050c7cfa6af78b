"""The motion UNet under the names of the original latent-diffusion UNet, as ComfyUI's `diffusion_model`."""

from __future__ import annotations

from collections.abc import Iterable

import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ....unet_motion import UNetMotionConfig, UNetMotionModel
from ....unet_motion.formats.kinds import MotionKind
from ..step.animatelcm import picture_inputs
from ..step.compiled_settings import decode_settings
from ..step.hooks import KEY, ComfyHooks, Places
from ..step.performance import kernels_of, step_of
from ..step.pia import with_first_frame
from ..step.settings import clip_frames, forward_options, publish_animation, settings
from ..step.step_cache import cached_step


def _sequence(*modules: nn.Module | None) -> nn.Sequential:
    """Modules under the names 0, 1, ...; None stands for a layer without parameters of the original."""
    return nn.Sequential(*(nn.Identity() if module is None else module for module in modules))


def _resnet(resnet: nn.Module) -> nn.Module:
    view = nn.Module()
    view.in_layers = _sequence(resnet.norm1, None, resnet.conv1)
    view.emb_layers = _sequence(None, resnet.time_emb_proj)
    view.out_layers = _sequence(resnet.norm2, None, None, resnet.conv2)
    view.skip_connection = nn.Identity() if resnet.conv_shortcut is None else resnet.conv_shortcut
    return view


def _downsample(layer: nn.Module) -> nn.Module:
    view = nn.Module()
    view.op = layer.conv
    return view


def _attentions(block: nn.Module) -> Iterable[nn.Module | None]:
    """The block's spatial transformers, one per resnet, or None for each."""
    attentions = getattr(block, "attentions", None)
    return attentions if attentions is not None and len(attentions) else [None] * len(block.resnets)


def _layers(block: nn.Module) -> list[list[nn.Module]]:
    return [
        [_resnet(resnet)] if attention is None else [_resnet(resnet), attention]
        for resnet, attention in zip(block.resnets, _attentions(block), strict=True)
    ]


def _input_blocks(core: UNetMotionModel) -> nn.ModuleList:
    blocks = [[core.conv_in]]
    for block in core.down_blocks:
        blocks += _layers(block)
        blocks += [[_downsample(layer)] for layer in block.downsamplers or ()]
    return nn.ModuleList(nn.Sequential(*layers) for layers in blocks)


def _middle_block(core: UNetMotionModel) -> nn.Sequential:
    mid = core.mid_block
    layers = [_resnet(mid.resnets[0])]
    for attention, resnet in zip(mid.attentions, mid.resnets[1:], strict=True):
        layers += [attention, _resnet(resnet)]
    return nn.Sequential(*layers)


def _output_blocks(core: UNetMotionModel) -> nn.ModuleList:
    blocks = []
    for block in core.up_blocks:
        blocks += _layers(block)
        blocks[-1] += list(block.upsamplers or ())
    return nn.ModuleList(nn.Sequential(*layers) for layers in blocks)


def _motion(core: UNetMotionModel) -> nn.Module:
    """The motion modules under `<block>.motion_modules`, the names that they have in a motion adapter."""

    def holder(block: nn.Module) -> nn.Module:
        view = nn.Module()
        if getattr(block, "motion_modules", None) is not None:
            view.motion_modules = block.motion_modules
        return view

    motion = nn.Module()
    motion.down_blocks = nn.ModuleList(holder(block) for block in core.down_blocks)
    motion.mid_block = holder(core.mid_block)
    motion.up_blocks = nn.ModuleList(holder(block) for block in core.up_blocks)
    if core.img_encoder is not None:
        motion.img_encoder = core.img_encoder
    return motion


def _register_rest(view: nn.Module, core: nn.Module) -> None:
    """Register what latent diffusion has no name for under `extra.` and its own name."""
    known = {id(module) for module in view.modules()}
    for name, module in core.named_modules():
        # Some layers of ComfyUI have a weight of None until they are loaded.
        owns = bool(module._parameters or module._buffers or "weight" in vars(module))
        if not owns or id(module) in known:
            continue
        parent = view
        *path, last = f"extra.{name}".split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]
        parent.add_module(last, module)


def check_text(context: Tensor | None, config: UNetMotionConfig) -> None:
    """Raise ValueError unless the text has the width that the model reads."""
    width = config.last("cross_attention_dim")
    if context is None or context.shape[-1] != width:
        found = "no text" if context is None else f"text of width {context.shape[-1]}"
        raise ValueError(
            f"the conditioning has {found}, but the model reads width {width}: use the CLIP of the same loader."
        )


class LDMView(nn.Module):
    """A UNetMotionModel whose layers carry latent-diffusion names, so that everything made for SD1.5 finds them.

    The core is kept unregistered and its own layers are registered a second time under `input_blocks.N.M`,
    `middle_block`, `output_blocks`, `time_embed`, `label_emb` and `out`; motion modules under `motion`. State dicts,
    LoRA patches and offloading therefore act on the core's weights.

    Args:
        core: the model; frames are the batch of what `forward` gets.
        dtype: of the weights, for ComfyUI's book-keeping.

    Attributes:
        graphs: the core's steps as CUDA graphs, or None before one is asked for.
        part_graphs: last layers of a step cache -> its steps and those layers alone as CUDA graphs.
        motion_kind: what is known of the motion modules' training, or None.
    """

    def __init__(self, core: UNetMotionModel, dtype: torch.dtype):
        super().__init__()
        self.__dict__["core"] = core
        self.dtype = dtype
        self.input_blocks = _input_blocks(core)
        self.middle_block = _middle_block(core)
        self.output_blocks = _output_blocks(core)
        self.time_embed = _sequence(core.time_embedding.linear_1, None, core.time_embedding.linear_2)
        if getattr(core, "add_embedding", None) is not None:
            self.label_emb = _sequence(_sequence(core.add_embedding.linear_1, None, core.add_embedding.linear_2))
        self.out = _sequence(core.conv_norm_out, None, core.conv_out)
        self.motion = _motion(core)
        _register_rest(self, core)
        self.__dict__["places"] = Places(core)
        self.__dict__["graphs"] = None
        self.__dict__["part_graphs"] = {}
        self.motion_kind: MotionKind | None = None

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None,
        control: dict | None = None, transformer_options: dict | None = None, unet_motion: dict | None = None, **kwargs,
    ) -> Tensor:  # fmt: skip
        """The noise of latents x (conds * frames, C, H, W) at timesteps (conds * frames,).

        Args:
            context: text, (conds * frames, L, D).
            y: pooled text vector of models that have a label embedding, (conds * frames, D).
            control: ComfyUI's residuals of ControlNets and T2I-Adapters.
            transformer_options: ComfyUI's per-call options, the pack's own under `unet_motion`.
            unet_motion: the pack's own options in place of those, see :func:`encode_settings`.
        """
        transformer_options = {} if transformer_options is None else transformer_options
        if unet_motion is not None:
            transformer_options = {**transformer_options, KEY: decode_settings(unet_motion)}
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _forward(self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs) -> Tensor:
        transformer_options = {} if transformer_options is None else transformer_options
        check_text(context, self.core.config)
        frames = clip_frames(x, transformer_options)
        publish_animation(x, frames, transformer_options)
        hooks = ComfyHooks(self.places, transformer_options, x, timesteps, context, y, control)
        added = picture_inputs(x, frames, self.core.config, transformer_options)
        chosen = settings(transformer_options)
        with kernels_of(chosen):
            step = cached_step(self, chosen, x, control, transformer_options, step_of(self, chosen))
            return step(
                with_first_frame(x, frames, self.core.config, transformer_options),
                timesteps,
                context,
                num_frames=frames,
                added_cond_kwargs=added if y is None else {"vector": y, **added},
                options=forward_options(x, transformer_options, timesteps, hooks),
            )
