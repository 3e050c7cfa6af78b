"""Down, mid and up blocks. Each layer is a resnet, a spatial transformer where the block has text, a motion module."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..config.unet import BlockPlan, UNetMotionConfig
from ..forward.call import Call
from ..forward.conditioning import residual_for
from ..ops.freeu import freeu_concat
from .layer_factory import LayerFactory
from .motion_module import MotionModule
from .resnet import Downsample, ResnetBlock, Upsample
from .transformer import SpatialTransformer


def _resnet(make: LayerFactory, config: UNetMotionConfig, channels_in: int, channels_out: int, scale: float = 1.0):
    temb = config.block_out_channels[0] * 4
    return ResnetBlock(
        make, channels_in, channels_out, temb, config.norm_num_groups, config.norm_eps, config.act_fn, scale
    )


def _run(layer: nn.Module, x: Tensor, call: Call) -> Tensor:
    return call.run(layer, x, call)


class _LayeredBlock(nn.Module):
    """Resnets, attentions and motion modules of one resolution; without text there are no ``attentions``."""

    def __init__(self, make: LayerFactory, config: UNetMotionConfig, plan: BlockPlan, resnets: list[ResnetBlock]):
        super().__init__()
        width, groups = plan.out_channels, config.norm_num_groups
        if plan.cross_attention:
            self.attentions = nn.ModuleList(
                SpatialTransformer(
                    make, width, plan.heads, depth, plan.cross_attention_dim, groups, config.use_linear_projection
                )
                for depth in plan.depths
            )
        self.resnets = nn.ModuleList(resnets)
        self.motion_modules = nn.ModuleList(
            MotionModule(make, width, heads, depth, groups, config.motion_max_seq_length)
            for heads, depth in zip(plan.motion_heads, plan.motion_depths, strict=True)
        )

    def layer(self, i: int, x: Tensor, call: Call, features: Tensor | None = None) -> Tensor:
        """Layer ``i`` on x (B*F, C, H, W); ``features`` are added before its motion module."""
        x = call.by_frames(x, lambda part, call: self._of_frames(i, part, call))
        if features is not None:
            x = x + features
        return call.move(self.motion_modules[i], x)

    def _of_frames(self, i: int, x: Tensor, call: Call) -> Tensor:
        """What the layer does to each frame alone."""
        x = call.run(self.resnets[i], x, call)
        attentions = getattr(self, "attentions", None)
        return x if attentions is None else attentions[i](x, call)


class DownBlock(_LayeredBlock):
    """Layers of one resolution and a convolution to the next lower one."""

    def __init__(self, make: LayerFactory, config: UNetMotionConfig, plan: BlockPlan):
        resnets = [
            _resnet(make, config, plan.in_channels if i == 0 else plan.out_channels, plan.out_channels)
            for i in range(plan.layers)
        ]
        super().__init__(make, config, plan, resnets)
        self.downsamplers: nn.ModuleList | None = None
        if plan.resample:
            self.downsamplers = nn.ModuleList([Downsample(make, plan.out_channels, config.downsample_padding)])

    def forward(self, x: Tensor, call: Call, skips: Skips, features: Tensor | None = None) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.kept_layer(i, x, call, skips, features)
        if self.downsamplers is not None:
            (downsample,) = self.downsamplers
            skips.before()
            x = skips.keep(call.by_frames(x, lambda part, _: downsample(part)))
        return x

    def kept_layer(self, i: int, x: Tensor, call: Call, skips: Skips, features: Tensor | None = None) -> Tensor:
        """Layer ``i`` and the skip that it leaves; ``features`` go into the second layer."""
        skips.before()
        return skips.keep(self.layer(i, x, call, features if i == 1 else None))


class MidBlock(nn.Module):
    """A resnet, then per layer a spatial transformer, a motion module where there are any, and a resnet."""

    def __init__(self, make: LayerFactory, config: UNetMotionConfig):
        super().__init__()
        width, groups, scale = config.block_out_channels[-1], config.norm_num_groups, config.mid_block_scale_factor
        self.attentions = nn.ModuleList(
            SpatialTransformer(
                make, width, config.last("num_attention_heads"), depth, config.last("cross_attention_dim"), groups,
                config.use_linear_projection,
            )
            for depth in config.mid_depths()
        )  # fmt: skip
        self.resnets = nn.ModuleList(
            _resnet(make, config, width, width, scale) for _ in range(config.mid_block_layers + 1)
        )
        if config.use_motion_mid_block:
            self.motion_modules = nn.ModuleList(
                MotionModule(make, width, config.mid_motion_heads(), depth, groups, config.motion_max_seq_length)
                for depth in config.mid_motion_depths()
            )

    def forward(self, x: Tensor, call: Call, residual: Tensor | None = None) -> Tensor:
        """x (B*F, C, h, w); a ControlNet's ``residual`` broadcasts to it and is added at the end."""
        if call.hooks is not None:
            call.hooks.before_stage("middle", 0)
        x = call.by_frames(x, lambda part, call: call.run(self.resnets[0], part, call))
        motion_modules = getattr(self, "motion_modules", None)
        for i, attention in enumerate(self.attentions):
            x = call.by_frames(x, attention)
            if motion_modules is not None:
                x = call.move(motion_modules[i], x)
            resnet = self.resnets[i + 1]
            x = call.by_frames(x, partial(_run, resnet))
        if residual is not None:
            x = x + residual_for(x, residual, "mid_block_additional_residual")
        return x if call.hooks is None else call.hooks.after_middle(x)


class UpBlock(_LayeredBlock):
    """Layers of one resolution, each behind a skip connection, and upsampling to the next higher one."""

    def __init__(self, make: LayerFactory, config: UNetMotionConfig, plan: BlockPlan, resolution: int):
        resnets = []
        for i in range(plan.layers):
            skip = plan.in_channels if i == plan.layers - 1 else plan.out_channels
            before = plan.prev_output_channels if i == 0 else plan.out_channels
            resnets.append(_resnet(make, config, before + skip, plan.out_channels))
        super().__init__(make, config, plan, resnets)
        self.upsamplers = nn.ModuleList([Upsample(make, plan.out_channels)]) if plan.resample else None
        self.resolution = resolution

    def forward(self, x: Tensor, call: Call, skips: Skips) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.joined_layer(i, x, call, skips)
        if self.upsamplers is not None:
            (upsample,) = self.upsamplers
            size = skips.next_size()
            x = call.by_frames(x, lambda part, _: upsample(part, size))
        return x

    def joined_layer(self, i: int, x: Tensor, call: Call, skips: Skips) -> Tensor:
        """Layer ``i`` behind its skip."""
        x, skip = skips.pop(x)
        return self.layer(i, freeu_concat(x, skip, call.settings.freeu, self.resolution), call)


class Skips:
    """The stack of skip tensors of one call, and the host's hooks around each stage.

    Args:
        levels: resolutions of the UNet, each half of the one before.
    """

    def __init__(self, call: Call, levels: int):
        self.hooks = call.hooks
        self.factor = 2 ** (levels - 1)
        self.stack: list[Tensor] = []
        self.outputs = 0

    def before(self) -> None:
        if self.hooks is not None:
            self.hooks.before_stage("input", len(self.stack))

    def keep(self, x: Tensor) -> Tensor:
        """Keep the output of an input stage; returns what the next stage reads."""
        if self.hooks is None:
            self.stack.append(x)
            return x
        index = len(self.stack)
        x = self.hooks.after_input(x, index)
        self.stack.append(x)
        return self.hooks.after_input_skip(x, index)

    def add(self, residuals: Sequence[Tensor] | None) -> None:
        """Add a ControlNet's residuals, one to each skip.

        Raises:
            ValueError: another number of them, or a shape that does not broadcast.
        """
        if residuals is None:
            return
        if len(residuals) != len(self.stack):
            raise ValueError(
                f"`down_block_additional_residuals` holds {len(residuals)} tensors, expected {len(self.stack)}, "
                "one per skip."
            )
        name = "down_block_additional_residuals[{}]"
        pairs = enumerate(zip(self.stack, residuals, strict=True))
        self.stack = [skip + residual_for(skip, extra, name.format(i)) for i, (skip, extra) in pairs]

    def next_size(self) -> tuple[int, int] | None:
        """Height and width of the skip that comes next, or None where twice the present size is that."""
        # A host's hooks may resize; else halving was exact where all sizes are multiples.
        if not self.stack or self.hooks is None and not any(size % self.factor for size in self.stack[0].shape[-2:]):
            return None
        height, width = self.stack[-1].shape[-2:]
        return height, width

    def pop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state and the skip of the next output stage."""
        skip = self.stack.pop()
        if self.hooks is not None:
            self.hooks.before_stage("output", self.outputs)
            x, skip = self.hooks.before_output(x, skip, self.outputs)
        self.outputs += 1
        return x, skip
