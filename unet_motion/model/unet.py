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
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.unet import UNetMotionConfig
from ..forward.call import Call, begin
from ..forward.conditioning import Conditioning, expand_timestep, text_time_vector
from ..forward.entry_checks import check_dtype, check_frame_count, check_sample, check_timestep, check_types
from ..forward.hooks import Hooks
from ..forward.options import ForwardOptions
from ..forward.settings import Settings, recomputed
from ..ops.conv.weights import ConvWeights
from ..ops.group_norm import scoped_group_norm
from ..ops.layer import is_hosted
from ..ops.linear.packed import TimeProjections, pack_for
from ..ops.sinusoids import timestep_sinusoid
from . import float8_products
from .attention import Attention
from .blocks import DownBlock, MidBlock, Skips, UpBlock
from .image_encoder import ImageEncoder, image_features
from .ip_adapter import project_images
from .layer_factory import make_factory
from .motion_module import MotionModule
from .resnet import ResnetBlock, TimestepEmbedding


class MotionUNet(nn.Module):
    """The network alone: its layers and one step through them.

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

        ``conditioning`` takes the optional inputs of :meth:`UNetMotionModel.forward` by name.
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
        self._check_entry(x, timestep, text, inputs, options)
        self._conv_weights.ready_for(self.device, self)
        return begin(self, x, timestep, text, frames, inputs, options or ForwardOptions())

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

    def _check_entry(self, x: Tensor, timestep: Any, text: Any, inputs: Conditioning, options: Any) -> None:
        if x.shape[1] != self.config.in_channels:
            raise ValueError(f"`sample` has {x.shape[1]} channels, expected `in_channels` {self.config.in_channels}.")
        plain = not is_hosted(self.conv_in) and type(self.conv_in) is nn.Conv2d
        check_dtype("sample", x, self, plain)
        check_timestep(timestep)
        check_types(inputs)
        if options is not None and not isinstance(options, ForwardOptions):
            raise ValueError(f"`options` is a {type(options).__name__}, expected ForwardOptions.")
        if text is not None:
            check_dtype("encoder_hidden_states", text, self, plain)

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
        """The image encoder's maps of a call: see `image_features` of model/image_encoder.py."""
        return image_features(self.img_encoder, inputs.added_cond_kwargs, batch, frames, sample)

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

    def motion_parts(self) -> list[nn.Module]:
        """The ModuleLists of motion modules, from input to output."""
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [block.motion_modules for block in blocks if hasattr(block, "motion_modules")]

    def arrange_weights(self) -> None:
        """Lay the weights out as the device reads them best, to predict only; no value, name or parameter changes.

        On a graphics card layers that read the same input lie behind each other, and convolutions have channels last;
        moving the model to another device or dtype undoes the former. Not done by itself, as others' functions that
        save (of safetensors, accelerate) leave out or refuse tensors that share memory: :meth:`save_pretrained` does
        not. Where a host reads weights through its own ``weights``, nothing is changed.
        """
        for layers in (self.time_projections.layers, *(attention.same_input for _, attention in self.attention_layers)):
            pack_for(self.device, layers)
        float8_products.arrange(self)
        self._conv_weights.arrange_for(self.device, self)

    def enable_float8_products(self, least_outputs: int = float8_products.LEAST_OUTPUTS) -> list[str]:
        """Round the weights around attention to float8 and multiply in it, for cards that do so at twice the rate.

        Queries, keys, values, outputs, both layers of feed-forward, and ``proj_in`` and ``proj_out`` of transformers
        and motion modules, where their widths are multiples of 16: float8_e4m3fn times one power of two a tensor, or
        for layers that read the same input. What they read is rounded to float8 too; docs/float8.md has the error. On
        other devices the same factors are multiplied in the model's dtype. The model cannot be saved, trained or given
        other motion modules afterwards, and only loading it anew undoes it; LoRAs that are applied stay as they are.

        Args:
            least_outputs: of a product, all layers that read the same input together; smaller ones stay as they are, as
                rounding what they read takes longer than they gain. 0 is all.

        Returns:
            The paths of these layers.

        Raises:
            ValueError: a layer of another kind than torch's, on the device meta, or with weights that are not finite.
        """
        return float8_products.enable(self, least_outputs)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device
