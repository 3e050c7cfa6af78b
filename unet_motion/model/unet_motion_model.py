"""The motion UNet: a latent-diffusion UNet with motion modules set between its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.unet import UNetMotionConfig
from ..forward.call import Call, begin
from ..forward.conditioning import Conditioning, expand_timestep, residual_for, text_time_vector
from ..forward.entry_checks import check_dtype, check_sample
from ..forward.hooks import Hooks
from ..forward.options import ForwardOptions
from ..ops.group_norm import scoped_group_norm
from ..ops.layer import is_hosted
from ..ops.linear.packed import TimeProjections
from ..ops.sinusoids import timestep_sinusoid
from .blocks import DownBlock, MidBlock, Skips, UpBlock
from .image_encoder import ImageEncoder, image_features
from .inflate import AdapterMixin
from .layer_factory import make_factory
from .resnet import ResnetBlock, TimestepEmbedding
from .settings import SettingsMixin


@dataclass
class UNetMotionOutput:
    """What ``forward`` returns: ``sample`` is (B, C, F, H, W). Also readable by index and by key."""

    sample: Tensor

    def __getitem__(self, key: int | str) -> Tensor:
        return self.to_tuple()[key] if isinstance(key, (int, slice)) else {"sample": self.sample}[key]

    def to_tuple(self) -> tuple[Tensor]:
        return (self.sample,)


UNet3DConditionOutput = UNetMotionOutput


class UNetMotionModel(SettingsMixin, AdapterMixin, nn.Module):
    """A UNet for video latents with diffusers' constructor, methods and parameter names.

    Args:
        config: the fields of :class:`UNetMotionConfig` by position or name, with diffusers' order and defaults.
        operations: namespace that layers are taken from (``Linear``, ``Conv2d``, ``GroupNorm``, ``LayerNorm``);
            default ``torch.nn``.
        weights: (layer, input) -> (weight, bias), used wherever weights are read without calling their layer.
        dtype, device: of the parameters.
    """

    config_class = UNetMotionConfig

    def __init__(self, *args: Any, operations=None, weights=None, dtype=None, device=None, **kwargs: Any):
        super().__init__()
        self.config = config = UNetMotionConfig(*args, **kwargs)
        make = make_factory(operations, weights, dtype, device)
        self._make = make
        width = config.block_out_channels[0]
        temb = width * 4
        self.conv_in = make.conv(config.in_channels, width, 3, padding=1)
        self.time_embedding = TimestepEmbedding(make, width, temb, config.act_fn, config.time_cond_proj_dim)
        self.encoder_hid_proj = None
        if config.addition_embed_type == "text_time":
            vector = config.projection_class_embeddings_input_dim
            self.add_embedding = TimestepEmbedding(make, vector, temb, "silu")
        self.down_blocks = nn.ModuleList(DownBlock(make, config, plan) for plan in config.down_plans())
        # Registered before the mid block, so that attn_processors has diffusers' order.
        self.up_blocks = nn.ModuleList(UpBlock(make, config, plan, i) for i, plan in enumerate(config.up_plans()))
        self.mid_block = MidBlock(make, config)
        self.img_encoder = ImageEncoder(make, config.block_out_channels) if config.use_image_encoder else None
        self.conv_norm_out = make.group_norm(config.norm_num_groups, width, config.norm_eps)
        self.conv_out = make.conv(width, config.out_channels, 3, padding=1)
        self.time_projections = TimeProjections([m for m in self.modules() if isinstance(m, ResnetBlock)])
        self._init_settings()

    def _apply(self, *args: Any, **kwargs: Any):
        moved = super()._apply(*args, **kwargs)
        self.pack_time_projections()
        return moved

    def pack_time_projections(self) -> None:
        """On a GPU compute the time embedding of all resnets as one product from now on (:class:`TimeProjections`).

        Moving the model does so too. Where a host reads weights through its own ``weights``, nothing is packed.
        """
        self.time_projections.pack_for(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Any] | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        return_dict: bool = True,
        *,
        options: ForwardOptions | None = None,
    ) -> UNetMotionOutput | tuple[Tensor]:
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
        frames = sample.permute(0, 2, 1, 3, 4).reshape(b * f, -1, h, w)
        inputs = Conditioning(
            timestep_cond,
            attention_mask,
            cross_attention_kwargs,
            added_cond_kwargs,
            down_block_additional_residuals,
            mid_block_additional_residual,
        )
        out = self._run(frames, timestep, encoder_hidden_states, f, inputs, options)
        out = out.unflatten(0, (b, f)).permute(0, 2, 1, 3, 4)
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
        if isinstance(num_frames, bool) or not isinstance(num_frames, int):
            raise ValueError(f"`num_frames` is {num_frames!r}, expected a whole number.")
        if num_frames < 1 or sample.shape[0] % num_frames:
            raise ValueError(
                f"`sample` has shape {tuple(sample.shape)}, expected (batch * {num_frames} frames, channels, "
                "height, width)."
            )
        return self._run(sample, timestep, encoder_hidden_states, num_frames, Conditioning(**conditioning), options)

    def _run(self, sample, timestep, text, frames: int, inputs: Conditioning, options) -> Tensor:
        if sample.shape[1] != self.config.in_channels:
            raise ValueError(
                f"`sample` has {sample.shape[1]} channels, expected `in_channels` {self.config.in_channels}."
            )
        plain = not is_hosted(self.conv_in) and type(self.conv_in) is nn.Conv2d
        check_dtype("sample", sample, self, plain)
        if text is not None:
            check_dtype("encoder_hidden_states", text, self, plain)
        call = begin(self, sample, timestep, text, frames, inputs, options or ForwardOptions())
        skips = Skips(call)
        skips.before()
        x = skips.keep(self.conv_in(sample.contiguous(memory_format=torch.channels_last)))
        maps = call.image_features or (None,) * len(self.down_blocks)
        for block, features in zip(self.down_blocks, maps, strict=True):
            x = block(x, call, skips, features)
        self._add_residuals(skips, inputs.down_block_additional_residuals)
        if call.hooks is not None:
            call.hooks.before_stage("middle", 0)
        x = self.mid_block(x, call)
        if inputs.mid_block_additional_residual is not None:
            x = x + residual_for(x, inputs.mid_block_additional_residual, "mid_block_additional_residual")
        if call.hooks is not None:
            x = call.hooks.after_middle(x)
        x = self._run_up(x, call, skips)
        norm, scope = self.conv_norm_out, call.settings.resnet_norm_scope
        return self.conv_out(scoped_group_norm(norm, x, call.frames, scope, F.silu))

    def _run_up(self, x: Tensor, call: Call, skips: Skips) -> Tensor:
        factor = 2 ** (len(self.up_blocks) - 1)
        # A host's hooks may resize.
        exact = call.hooks is not None or any(size % factor for size in skips.stack[0].shape[-2:])
        for block in self.up_blocks:
            # The skip that the next block reads first gives the size where halving was not exact.
            left = len(skips.stack) - len(block.resnets)
            size = tuple(skips.stack[left - 1].shape[-2:]) if exact and left > 0 else None
            x = block(x, call, skips, size)
        return x

    @staticmethod
    def _add_residuals(skips: Skips, residuals: tuple[Tensor, ...] | None) -> None:
        if residuals is None:
            return
        if len(residuals) != len(skips.stack):
            raise ValueError(
                f"`down_block_additional_residuals` holds {len(residuals)} tensors, expected {len(skips.stack)}, "
                "one per skip."
            )
        name = "down_block_additional_residuals[{}]"
        pairs = enumerate(zip(skips.stack, residuals, strict=True))
        skips.stack = [skip + residual_for(skip, extra, name.format(i)) for i, (skip, extra) in pairs]

    def embed_time(
        self, sample: Tensor, timestep, batch: int, frames: int, inputs: Conditioning, hooks: Hooks | None
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
        return self.down_blocks[0].resnets[0].act(emb)

    def encode_image(self, inputs: Conditioning, batch: int, frames: int, sample: Tensor) -> tuple[Tensor, ...] | None:
        """The image encoder's maps of a call: see :func:`image_features`."""
        return image_features(self.img_encoder, inputs.added_cond_kwargs, batch, frames, sample)
