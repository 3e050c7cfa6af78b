"""Layers of the network under diffusers' names, as its helpers and pipelines look for them.

A layer changes its class, not its weights: what diffusers builds in its place only says how it is to work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from diffusers.models import attention as theirs
from diffusers.models import attention_processor as processors
from diffusers.pipelines.free_noise_utils import SplitInferenceModule
from torch import nn

from ..forward.views import Views
from ..model import blocks
from ..model.attention import Attention
from ..model.ip_adapter import IPAdapterProcessor, put_processor
from ..model.motion_module import MotionModule, MotionTransformerBlock
from ..model.transformer import SpatialTransformer
from ..model.unet import MotionUNet
from ..ops.attention import DEFAULT_PROCESSOR
from ..ops.attention.processors import get_processor


class CrossAttnDownBlockMotion(blocks.DownBlock):
    gradient_checkpointing = False


class DownBlockMotion(blocks.DownBlock):
    gradient_checkpointing = False


class CrossAttnUpBlockMotion(blocks.UpBlock):
    gradient_checkpointing = False


class UpBlockMotion(blocks.UpBlock):
    gradient_checkpointing = False


class UNetMidBlockCrossAttnMotion(blocks.MidBlock):
    gradient_checkpointing = False


class Transformer2DModel(SpatialTransformer):
    gradient_checkpointing = False


class MotionBlock(MotionTransformerBlock, theirs.BasicTransformerBlock):
    """A block of a motion module with the attributes of diffusers' class."""

    dropout = 0.0
    cross_attention_dim = None
    activation_fn = "geglu"
    attention_bias = only_cross_attention = False
    double_self_attention = True
    positional_embeddings = "sinusoidal"
    _chunk_size, _chunk_dim = None, 0

    @property
    def dim(self) -> int:
        return self.pos_embed.pe.shape[2]

    @property
    def num_positional_embeddings(self) -> int:
        return self.pos_embed.pe.shape[1]

    @property
    def num_attention_heads(self) -> int:
        return self.attn1.heads

    @property
    def attention_head_dim(self) -> int:
        return self.dim // self.attn1.heads


class FreeNoiseBlock(MotionTransformerBlock, theirs.FreeNoiseTransformerBlock):
    """The same while a pipeline's FreeNoise is on; :func:`free_noise_views` says what it does then."""

    dropout, cross_attention_dim, activation_fn = 0.0, None, "geglu"
    attention_bias = only_cross_attention = False
    double_self_attention, positional_embeddings = True, "sinusoidal"
    _chunk_size, _chunk_dim = None, 0
    dim, num_positional_embeddings = MotionBlock.dim, MotionBlock.num_positional_embeddings
    num_attention_heads, attention_head_dim = MotionBlock.num_attention_heads, MotionBlock.attention_head_dim


class MotionBlocks(nn.ModuleList):
    """The blocks of a motion module, which keep their place where diffusers puts its own there to turn FreeNoise."""

    def __setitem__(self, index: int, module: nn.Module) -> None:
        block = self[index]
        if isinstance(module, theirs.FreeNoiseTransformerBlock) and isinstance(block, MotionTransformerBlock):
            block.__class__ = FreeNoiseBlock
            settings = module.context_length, module.context_stride, module.weighting_scheme
            cast(Any, block).set_free_noise_properties(*settings)
        elif isinstance(module, theirs.BasicTransformerBlock) and isinstance(block, MotionTransformerBlock):
            block.__class__ = MotionBlock
        else:
            super().__setitem__(index, module)


def name_layers(unet: MotionUNet) -> None:
    """Give the layers of a motion UNet diffusers' names."""
    kinds = (*unet.config.down_block_types, *unet.config.up_block_types)
    for block, kind in zip((*unet.down_blocks, *unet.up_blocks), kinds, strict=True):
        block.__class__ = globals()[kind]
    unet.mid_block.__class__ = UNetMidBlockCrossAttnMotion
    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            module.__class__ = Transformer2DModel
        elif isinstance(module, MotionModule):
            module.transformer_blocks.__class__ = MotionBlocks
            for block in module.transformer_blocks:
                block.__class__ = MotionBlock


class FreeNoiseViews(Views):
    """Views whose weights are those of diffusers, which for the last frames of some clips do not add up to 1."""

    def __post_init__(self) -> None:
        pass


def free_noise_views(unet: MotionUNet, frames: int) -> FreeNoiseViews | None:
    """The windows of diffusers' FreeNoise for a clip, or None where it is off.

    Raises:
        ValueError: the clip is shorter than a window, or diffusers has no weights for a window of this length.
    """
    module = unet.motion_modules_at[0][1] if unet.motion_modules_at else None
    block: Any = module.transformer_blocks[0] if module is not None and len(module.transformer_blocks) else None
    if not isinstance(block, FreeNoiseBlock):
        return None
    length = int(cast(Any, block).context_length)
    if frames < length:
        raise ValueError(f"the clip has {frames} frames, expected at least `context_length` {length} for FreeNoise.")
    spans, scheme = cast(Any, block)._get_frame_indices(frames), cast(Any, block).weighting_scheme
    return _views(length, frames, tuple(spans), scheme)


@lru_cache(maxsize=8)
def _views(length: int, frames: int, spans: tuple[tuple[int, int], ...], scheme: str) -> FreeNoiseViews:
    shares = theirs.FreeNoiseTransformerBlock._get_frame_weights(cast(Any, None), length, scheme)
    if len(shares) != length:
        raise ValueError(f"`context_length` is {length}, expected an even number for the weighting scheme {scheme!r}.")
    windows = [tuple(range(*span)) for span in spans]
    weights = [list(map(float, shares)) for _ in windows]
    rest = frames - spans[-1][1]
    if rest:
        # Only the frames that no other window has; all are divided by the weight of the first of them.
        windows.append(tuple(range(frames - length, frames)))
        weights.append([0.0] * (length - rest) + [float(share) for share in shares[-rest:]])
    total = [0.0] * frames
    for window, shares in zip(windows, weights, strict=True):
        for frame, share in zip(window, shares, strict=True):
            total[frame] += share
    if rest:
        total[-rest:] = [weights[-1][-rest]] * rest
    parts = [
        tuple(share / total[frame] if share else 0.0 for frame, share in zip(window, shares, strict=True))
        for window, shares in zip(windows, weights, strict=True)
    ]
    return FreeNoiseViews(tuple(windows), tuple(parts))


def take_splits(unet: Any) -> None:
    """Put layers that a pipeline wrapped to run in parts back, and run the network in parts of these sizes."""
    if not isinstance(unet.mid_block.resnets[0], SplitInferenceModule):
        return
    unet.frames_at_once = unet.mid_block.resnets[0].split_size
    for module in unet.modules():
        for name, child in module._modules.items():
            if isinstance(module, MotionModule) and isinstance(child, SplitInferenceModule):
                module.most_pixels = child.split_size
            while isinstance(child, SplitInferenceModule):
                child = child.module
            module._modules[name] = child


class ImageProcessor(IPAdapterProcessor, processors.IPAdapterAttnProcessor2_0):
    """The image layers of an IP-Adapter, which pipelines look for by diffusers' class."""

    def __init__(self, layers: Any):
        nn.Module.__init__(self)
        self.to_k_ip, self.to_v_ip = layers.to_k_ip, layers.to_v_ip
        self.scale, self.kernel = list(layers.scale), None
        self.hidden_size, self.cross_attention_dim = layers.hidden_size, layers.cross_attention_dim
        self.num_tokens = layers.num_tokens


IMAGE_PROCESSORS = (
    processors.IPAdapterAttnProcessor,
    processors.IPAdapterAttnProcessor2_0,
    processors.IPAdapterXFormersAttnProcessor,
)
OWN_NAMES = {
    processors.AttnProcessor: "auto",
    processors.AttnProcessor2_0: "auto",
    processors.FusedAttnProcessor2_0: "auto",
    processors.SlicedAttnProcessor: "sliced",
    processors.XFormersAttnProcessor: "xformers",
}
"""diffusers' processors that compute plain attention, and the one of this project that does the same."""


def own_processor(processor: Any) -> Any:
    """This project's processor for one of diffusers'; others stay what they are."""
    name = OWN_NAMES.get(type(processor))
    return processor if name is None else get_processor(name)


def set_given(attention: Attention, given: Any, put: Callable[[Attention, Any], None]) -> None:
    """Put this project's processor for the given one; the given one is what `given_processor` shows."""
    put(attention, own_processor(given))
    attention.__dict__["given"] = given if type(given) in OWN_NAMES else None


def given_processor(attention: Attention) -> Any:
    """The processor of one layer, as it was given where this project has the same under another name."""
    given, found = attention.__dict__.get("given"), attention.processor or DEFAULT_PROCESSOR
    return given if given is not None and getattr(found, "name", None) == OWN_NAMES[type(given)] else found


def replace_processor(attention: Attention, processor: Any) -> None:
    """Set the processor of one layer: image layers come with it, and go where it has none."""
    if isinstance(processor, ImageProcessor):
        put_processor(attention, processor)
    elif isinstance(processor, IMAGE_PROCESSORS):
        kernel = getattr(attention.processor, "kernel", attention.processor)
        images = ImageProcessor(processor)
        images.kernel = kernel
        put_processor(attention, images)
    else:
        set_given(attention, processor, put_processor)
