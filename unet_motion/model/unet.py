"""The motion UNet: a latent-diffusion UNet with motion modules set between its layers.

    frames (B*F, C, H, W)                                                  noise (B*F, C, H, W)
       |                                                                      ^
    conv_in --------------------------------- skip ----------------------->  norm, silu, conv_out
       |                                                                      ^
    down 0   resnet, text, motion, ... ----------- skips -----------> up n   cat, resnet, text, motion, ...
       |     H/2, W/2                                                         ^        2*H, 2*W
    down n   resnet, text, motion, ... ----------- skips -----------> up 0   cat, resnet, text, motion, ...
       |                                                                      ^
       +---> mid   resnet, (text, motion, resnet), ... -----------------------+

Resnets read the time embedding, transformers over the pixels of a frame read the text, motion modules run over the
frames of a pixel. Frames stay in the batch and channels last in memory from end to end, so (B, F, H*W, C) is a view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.unet import UNetMotionConfig
from ..forward.call import Call, Settings, begin, recomputed
from ..forward.conditioning import Conditioning, text_time_vector
from ..forward.entry import check_entry, check_frame_count, check_sample, expand_timestep
from ..forward.hooks import Hooks
from ..forward.options import ForwardOptions
from ..ops.conv.weights import ConvWeights
from ..ops.group_norm import scoped_group_norm
from ..ops.linear.packed import TimeProjections
from ..ops.sinusoids import timestep_sinusoid
from .attention import Attention
from .blocks import DownBlock, MidBlock, Skips, UpBlock
from .image_encoder import ImageEncoder, image_features
from .ip_adapter import project_images
from .layer_factory import make_factory
from .motion_module import MotionModule
from .resnet import ResnetBlock, TimestepEmbedding

_DEFAULTS = ForwardOptions()


@dataclass
class UNetMotionOutput:
    """What ``forward`` returns: ``sample`` is (B, C, F, H, W). Also readable by index and by key."""

    sample: Tensor

    def __getitem__(self, key: int | str) -> Tensor:
        return self.to_tuple()[key] if isinstance(key, (int, slice)) else {"sample": self.sample}[key]

    def to_tuple(self) -> tuple[Tensor]:
        return (self.sample,)


class MotionUNet(nn.Module):
    """The network alone: its layers and one step through them, of clips or of frames.

    Args:
        config: what is built.
        operations: namespace that layers are taken from (``Linear``, ``Conv2d``, ``GroupNorm``, ``LayerNorm``);
            default ``torch.nn``.
        weights: (layer, input) -> (weight, bias), used wherever weights are read without calling their layer.
        dtype, device: of the parameters.

    Attributes:
        defaults: what every call starts from.
        attention_layers: (path, layer) of each attention, in diffusers' order.
        motion_modules_at: (path, module) of each motion module.
        text_widths: widths of the text that the cross-attentions read.
        silent: whether new motion modules change nothing.
        adapter_conv_in: whether the input layer has channels that came with an adapter and are saved with it.
    """

    silent = True
    adapter_conv_in = False

    def __init__(self, config: UNetMotionConfig, operations=None, weights=None, dtype=None, device=None):
        super().__init__()
        self.config = config
        self.factory = make = make_factory(operations, weights, dtype, device, self.silent)
        width = config.block_out_channels[0]
        temb = width * 4
        self.conv_in = make.conv(config.in_channels, width, 3, padding=1)
        self.time_embedding = TimestepEmbedding(make, width, temb, config.act_fn, config.time_cond_proj_dim)
        self.encoder_hid_proj: nn.Module | None = None
        if config.addition_embed_type == "text_time":
            vector = config.projection_class_embeddings_input_dim
            assert vector is not None  # the configuration checks it
            self.add_embedding = TimestepEmbedding(make, vector, temb, "silu")
        self.down_blocks = nn.ModuleList(DownBlock(make, config, plan) for plan in config.down_plans())
        # Registered before the mid block, so that attn_processors has diffusers' order.
        self.up_blocks = nn.ModuleList(UpBlock(make, config, plan, i) for i, plan in enumerate(config.up_plans()))
        self.mid_block = MidBlock(make, config)
        self.img_encoder = ImageEncoder(make, config.block_out_channels) if config.use_image_encoder else None
        self.conv_norm_out = make.group_norm(config.norm_num_groups, width, config.norm_eps)
        self.conv_out = make.conv(width, config.out_channels, 3, padding=1)
        self.time_projections = TimeProjections([m for m in self.modules() if isinstance(m, ResnetBlock)])
        self._conv_weights = ConvWeights()
        self.gradient_checkpointing = False
        self.checkpointing_function: Callable[..., Any] = recomputed
        self._defaults = Settings()
        self._list_layers()

    def _list_layers(self) -> None:
        modules = list(self.named_modules())
        # A tuple hides the layers from nn.Module, which has them under their own names already.
        self.attention_layers = tuple((path, m) for path, m in modules if isinstance(m, Attention))
        self.motion_modules_at = tuple((path, m) for path, m in modules if isinstance(m, MotionModule))
        self.text_widths = {a.context_dim for _, a in self.attention_layers if a.is_cross_attention}
        # Not by their weights, which a host may load later.
        linear = (path for path, module in modules if hasattr(module, "in_features"))
        self._motion_paths = {path for path in linear if ".motion_modules." in path}

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None, attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None, added_cond_kwargs: dict[str, Any] | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None, return_dict: bool = True, *,
        options: ForwardOptions | None = None,
    ) -> UNetMotionOutput | tuple[Tensor]:  # fmt: skip
        """Predict the noise of a clip.

        Args:
            sample: noisy latents (B, C, F, H, W).
            timestep: a number, or a tensor of 1, B or B*F numbers.
            encoder_hidden_states: text (B, L, D), one per clip, or (B*F, L, D), one per frame.
            timestep_cond: (B, time_cond_proj_dim), added to the timestep's sinusoid.
            attention_mask: (B, L) or (B*F, L) over the text tokens; 1 or True keeps a token.
            cross_attention_kwargs: ``ip_adapter_masks``; ``scale`` is accepted and acts on nothing here.
            added_cond_kwargs: ``text_embeds`` and ``time_ids`` (or both as one ``vector``), ``image_embeds``,
                ``image_latents`` and their ``image_motion_scale``.
            down_block_additional_residuals: one tensor per skip, broadcastable to (B*F, C, h, w).
            mid_block_additional_residual: broadcastable to the mid block's output.
            return_dict: return :class:`UNetMotionOutput` rather than a tuple.
            options: overrides of the model's defaults for this call.

        Raises:
            ValueError: an input whose shape does not fit, with what was found and expected.
        """
        check_sample(sample, "batch, channels, frames, height, width", 5)
        b, _, f, h, w = sample.shape
        frames = sample.permute(0, 2, 1, 3, 4).reshape(b * f, -1, h, w)  # (B*F, C, H, W)
        inputs = Conditioning(
            timestep_cond, attention_mask, cross_attention_kwargs, added_cond_kwargs, down_block_additional_residuals,
            mid_block_additional_residual,
        )  # fmt: skip
        out = self.predict(frames, timestep, encoder_hidden_states, f, inputs, options)
        out = out.unflatten(0, (b, f)).permute(0, 2, 1, 3, 4)  # (B, C, F, H, W)
        return UNetMotionOutput(out) if return_dict else (out,)

    def forward_frames(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        num_frames: int,
        *,
        options: ForwardOptions | None = None,
        **conditioning: Any,
    ) -> Tensor:
        """Predict the noise with the frames in the batch: sample (B*F, C, H, W) -> (B*F, C, H, W).

        ``conditioning`` takes the optional inputs of :meth:`forward` by name.
        """
        check_sample(sample, "batch * frames, channels, height, width", 4)
        check_frame_count(sample, num_frames)
        inputs = Conditioning(**conditioning)
        return self.predict(sample, timestep, encoder_hidden_states, num_frames, inputs, options)

    def predict(
        self, x: Tensor, timestep: Any, text: Tensor | None, frames: int, inputs: Conditioning,
        options: ForwardOptions | None = None,
    ) -> Tensor:  # fmt: skip
        """The figure: the noise of frames x (B*F, C, H, W)."""
        call = self.begin_call(x, timestep, text, frames, inputs, options)
        return self.through(x, call, Skips(call, len(self.up_blocks)), inputs)

    def begin_call(
        self, x: Tensor, timestep: Any, text: Tensor | None, frames: int, inputs: Conditioning,
        options: ForwardOptions | None,
    ) -> Call:  # fmt: skip
        """The call that the layers share, its inputs checked."""
        check_entry(self, x, timestep, text, inputs, options)
        self._conv_weights.ready_for(self.device, self)
        return begin(self, x, timestep, text, frames, inputs, options or _DEFAULTS)

    def through(self, x: Tensor, call: Call, skips: Skips, inputs: Conditioning) -> Tensor:
        """Frames x (B*F, C, H, W) through all layers."""
        x = self.enter(x, skips)
        for block, features in zip(self.down_blocks, call.features_of(list(self.down_blocks)), strict=True):
            x = block(x, call, skips, features)
        skips.add(inputs.down_block_additional_residuals)
        x = self.mid_block(x, call, inputs.mid_block_additional_residual)
        for block in self.up_blocks:
            x = block(x, call, skips)
        return self.leave(x, call)

    def enter(self, x: Tensor, skips: Skips) -> Tensor:
        """The first layer, and the skip that it leaves: (B*F, C0, H, W)."""
        skips.before()
        return skips.keep(self.conv_in(x.contiguous(memory_format=torch.channels_last)))

    def leave(self, x: Tensor, call: Call) -> Tensor:
        """The last layers on (B*F, C0, H, W)."""
        x = scoped_group_norm(self.conv_norm_out, x, call.frames, call.settings.resnet_norm_scope, F.silu)
        return self.conv_out(x)

    def embed_time(
        self, sample: Tensor, timestep: Any, batch: int, frames: int, inputs: Conditioning, hooks: Hooks | None
    ) -> Tensor:
        """The activated embedding of the timestep and of what is added to it, (B or B*F, 4 * C0)."""
        timesteps = expand_timestep(timestep, batch, frames, sample.device)
        sinusoid = timestep_sinusoid(timesteps, self.config.block_out_channels[0]).to(sample.dtype)
        if inputs.timestep_cond is not None and self.time_embedding.cond_proj is None:
            raise ValueError("`timestep_cond` was given, but the model has no `time_cond_proj_dim`.")
        emb = self.time_embedding(sinusoid, inputs.timestep_cond)
        if hooks is not None:
            emb = hooks.after_time_embedding(emb)
        if self.config.addition_embed_type == "text_time":
            vector = text_time_vector(inputs.added_cond_kwargs, self.config, batch, frames, sample)
            extra = self.add_embedding(vector)
            if extra.shape[0] != emb.shape[0] and min(extra.shape[0], emb.shape[0]) != 1:
                emb, extra = (t.repeat_interleave(batch * frames // t.shape[0], dim=0) for t in (emb, extra))
            emb = emb + extra
        if hooks is not None:
            emb = hooks.after_embedding(emb)
        # Every resnet reads the activated embedding, so it is activated once.
        return cast(ResnetBlock, cast(DownBlock, self.down_blocks[0]).resnets[0]).act(emb)

    def project_images(
        self, inputs: Conditioning, batch: int, frames: int, dtype: torch.dtype
    ) -> tuple[list[Tensor] | None, list[Tensor | None] | None]:
        """The IP-Adapters' image tokens and masks of a call: see `project_images` of model/ip_adapter.py."""
        if self.encoder_hid_proj is None:
            return None, None
        return project_images(self.encoder_hid_proj, inputs, batch, frames, dtype)

    def encode_image(self, inputs: Conditioning, batch: int, frames: int, sample: Tensor) -> tuple[Tensor, ...] | None:
        """The image encoder's maps of a call, or None without a picture: the clip then follows the text alone."""
        added = inputs.added_cond_kwargs or {}
        if added.get("image_latents") is None:
            return None
        return image_features(self.img_encoder, added, batch, frames, sample)

    @property
    def defaults(self) -> Settings:
        return replace(
            self._defaults,
            resnet_norm_scope=self.config.resnet_norm_scope,
            motion_norm_scope=self.config.motion_norm_scope,
            checkpointing=self.checkpointing_function if self.gradient_checkpointing else None,
        )

    def set_defaults(self, **changes: Any) -> None:
        """Change some of the fields of :attr:`defaults` that the configuration does not hold."""
        self._defaults = replace(self._defaults, **changes)

    def motion_layer(self, path: str) -> nn.Module | None:
        """The linear layer of a motion module at a path in the UNet, or None."""
        return self.get_submodule(path) if path in self._motion_paths else None

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device
