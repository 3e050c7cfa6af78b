"""IP-Adapter: image prompts through cross-attention layers of their own (Ye et al., 2023, arXiv 2308.06721)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.unet import UNetMotionConfig
from ..forward.call import Call
from ..forward.conditioning import Conditioning
from ..ops.attention import AttentionProcessor
from ..values import quoted
from .attention import Attention
from .layer_factory import LayerFactory

_PROJECTION = "encoder_hid_proj.image_projection_layers."


class ImageUNet(Protocol):
    """What image layers are put on: a :class:`unet_motion.model.unet.MotionUNet`, which knows of this file."""

    factory: LayerFactory
    config: UNetMotionConfig
    encoder_hid_proj: nn.Module | None
    attention_layers: tuple[tuple[str, Attention], ...]

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...


class ImageProjection(nn.Module):
    """An image embedding (R, D) as T tokens (R, T, C)."""

    def __init__(self, make: LayerFactory, image_dim: int, width: int, tokens: int):
        super().__init__()
        self.image_dim, self.tokens = image_dim, tokens
        self.image_embeds = make.linear(image_dim, tokens * width)
        self.norm = make.layer_norm(width)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.norm(self.image_embeds(embeds).unflatten(-1, (self.tokens, -1)))


class ImageProjections(nn.Module):
    """One projection per loaded IP-Adapter."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.image_projection_layers = nn.ModuleList(layers)

    def forward(self, embeds: Sequence[Tensor]) -> list[Tensor]:
        """Per adapter embeds (R, n_images, D) -> tokens (R, n_images, T, C)."""
        if len(embeds) != len(self.image_projection_layers):
            raise ValueError(
                f"`image_embeds` holds {len(embeds)} tensors, expected {len(self.image_projection_layers)}, "
                "one per IP-Adapter."
            )
        for i, (layer, e) in enumerate(zip(self.image_projection_layers, embeds, strict=True)):
            if e.shape[-1] != layer.image_dim:
                raise ValueError(f"`image_embeds[{i}]` has width {e.shape[-1]}, expected {layer.image_dim}.")
        return [
            layer(e.flatten(0, 1)).unflatten(0, e.shape[:2])
            for layer, e in zip(self.image_projection_layers, embeds, strict=True)
        ]


class IPAdapterProcessor(nn.Module):
    """The image layers of one cross-attention; ``kernel`` is the processor that computes attention."""

    def __init__(self, make: LayerFactory, inner: int, width: int, adapters: int, scale: Sequence[float]):
        super().__init__()
        self.to_k_ip = nn.ModuleList(make.linear(width, inner, bias=False) for _ in range(adapters))
        self.to_v_ip = nn.ModuleList(make.linear(width, inner, bias=False) for _ in range(adapters))
        self.scale = list(scale)
        self.kernel: AttentionProcessor | None = None

    def add_images(self, hidden: Tensor, query: Tensor, attention: Attention, kernel: Any, call: Call) -> Tensor:
        """Add to ``hidden`` what ``query`` (both (N, L, heads*dim)) finds in the images of the call."""
        shape = hidden.shape
        for i, (to_k, to_v, scale) in enumerate(zip(self.to_k_ip, self.to_v_ip, self.scale, strict=True)):
            scales = list(scale) if isinstance(scale, Sequence) else [scale]
            if not any(scales):
                continue
            tokens = cast(list[Tensor], call.ip_tokens)[i]
            rows = tokens.shape[0]
            queries = query.reshape(rows, -1, query.shape[-1])
            mask = call.ip_masks[i] if call.ip_masks is not None else None
            if len(scales) > 1 and (mask is None or len(scales) != tokens.shape[1]):
                raise ValueError(
                    f"the scale of IP-Adapter {i} holds {len(scales)} numbers, expected one, or one for each of the "
                    f"{tokens.shape[1]} images beside `ip_adapter_masks`."
                )
            if mask is None:
                tokens = tokens.flatten(1, 2)
                result = scales[0] * attention.attend(kernel, queries, to_k(tokens), to_v(tokens), None)
            else:
                mask = mask * torch.tensor(scales, dtype=mask.dtype, device=mask.device)[:, None, None]
                result = self._masked(queries, tokens, mask, to_k, to_v, attention, kernel, call)
            hidden = hidden + result.reshape(shape)
        return hidden

    @staticmethod
    def _masked(queries, tokens, mask, to_k, to_v, attention, kernel, call: Call) -> Tensor:
        pixels = queries.shape[0] * queries.shape[1] // (call.batch * call.frames)
        weights = downsample_mask(mask, pixels).to(queries)
        total = torch.zeros_like(queries)
        for image in range(tokens.shape[1]):
            part = tokens[:, image]
            result = attention.attend(kernel, queries, to_k(part), to_v(part), None)
            weight = weights[:, image].expand(call.batch, -1)[:, None, :, None]
            total = total + (result.reshape(call.batch, call.frames, pixels, -1) * weight).reshape(result.shape)
        return total


def downsample_mask(mask: Tensor, pixels: int) -> Tensor:
    """A mask (R, n_images, H, W) at the resolution of ``pixels`` tokens, (R, n_images, pixels), aspect kept."""
    height, width = mask.shape[-2:]
    rows = int((pixels / (width / height)) ** 0.5)
    rows += pixels % rows != 0
    columns = pixels // rows
    small = F.interpolate(mask, size=(rows, columns), mode="bicubic").flatten(2)
    return F.pad(small, (0, max(0, pixels - small.shape[-1])))[..., :pixels]


def load(unet: ImageUNet, state_dicts: Sequence[Mapping[str, Any]], scale: float = 1.0) -> None:
    """Set image layers from published files: see :meth:`unet_motion.UNetMotionModel.load_ip_adapter`."""
    converted: dict[str, Tensor] = {}
    for i, state in enumerate(state_dicts):
        converted.update(_convert_file(state, i, [path for path, _ in _cross_attentions(unet)]))
    attach(unet, converted, scale)
    own = unet.state_dict()
    unet.load_state_dict({k: v.to(own[k].dtype) for k, v in converted.items()}, strict=False)


def attach(unet: ImageUNet, state: Mapping[str, Tensor], scale: float = 1.0) -> bool:
    """Build the image layers that ``state`` (diffusers' names) has tensors for; False if it has none.

    Raises:
        ValueError: another form of image projection, or layers that do not fit the UNet.
    """
    projections = [k for k in state if k.startswith(_PROJECTION) and k.endswith("image_embeds.weight")]
    if not projections:
        foreign = next((k for k in state if k.startswith("encoder_hid_proj.")), None)
        if foreign:
            raise ValueError(f"the image projection {quoted(foreign)} is of a kind that is not supported.")
        return False
    make = replace(unet.factory, dtype=unet.dtype, device=unet.device)
    layers = []
    for i in range(len(projections)):
        weight, norm = state[f"{_PROJECTION}{i}.image_embeds.weight"], state[f"{_PROJECTION}{i}.norm.weight"]
        layers.append(ImageProjection(make, weight.shape[1], norm.shape[0], weight.shape[0] // norm.shape[0]))
    unet.encoder_hid_proj = ImageProjections(layers)
    for path, attention in _cross_attentions(unet):
        key = state.get(f"{path}.processor.to_k_ip.0.weight")
        inner = attention.heads * round(attention.scale**-2)
        if key is None or key.shape[0] != inner:
            found = "nothing" if key is None else f"width {key.shape[0]}"
            raise ValueError(f"the IP-Adapter has {found} for {path}, expected width {inner}.")
        processor = IPAdapterProcessor(make, inner, key.shape[1], len(layers), [scale] * len(layers))
        processor.kernel = getattr(attention.processor, "kernel", attention.processor)
        put_processor(attention, processor)
    unet.config = unet.config.replace(encoder_hid_dim_type="ip_image_proj")
    return True


def set_scale(unet: ImageUNet, scale: float | Sequence[float]) -> None:
    """Strength of the image prompts: one number, or one per adapter; 0 skips an adapter."""
    for _, attention in _cross_attentions(unet):
        processor = attention.processor
        if not isinstance(processor, IPAdapterProcessor):
            raise ValueError("no IP-Adapter is loaded.")
        count = len(processor.scale)
        scales: list[float] = [scale] * count if isinstance(scale, (int, float)) else list(scale)
        if len(scales) != count:
            raise ValueError(f"`scale` holds {len(scales)} numbers, expected {count}, one per IP-Adapter.")
        processor.scale = scales


def unload(unet: ImageUNet) -> None:
    """Remove the image layers and their projection."""
    for _, attention in _cross_attentions(unet):
        if isinstance(attention.processor, IPAdapterProcessor):
            put_processor(attention, attention.processor.kernel)
    unet.encoder_hid_proj = None
    unet.config = unet.config.replace(encoder_hid_dim_type=None)


def set_processor(attention: Attention, processor: Any) -> None:
    """Set an attention's default processor; image layers stay, and take a named processor as their kernel."""
    current = attention.processor
    if isinstance(current, IPAdapterProcessor) and isinstance(processor, AttentionProcessor):
        current.kernel = processor
    else:
        put_processor(attention, processor)


def put_processor(attention: Attention, processor: Any) -> None:
    """Set an attention's processor, with image layers or without, in the place of what was there."""
    if isinstance(attention.processor, nn.Module):
        del attention.processor  # else what is no module could not take a module's place
    attention.processor = processor


def _cross_attentions(unet: ImageUNet) -> list[tuple[str, Attention]]:
    return [(path, attention) for path, attention in unet.attention_layers if attention.is_cross_attention]


def project_images(
    projections: nn.Module, inputs: Conditioning, batch: int, frames: int, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor | None] | None]:
    """The image tokens of a call, one per IP-Adapter, and their masks if it has some.

    ``projections`` are :class:`ImageProjections`, or a host's that take images of several tokens too.

    Raises:
        ValueError: images or masks that are missing or of another shape.
    """
    embeds = (inputs.added_cond_kwargs or {}).get("image_embeds")
    if embeds is None:
        raise ValueError(
            "the model has an IP-Adapter, which requires the keyword argument `image_embeds` to be passed in "
            "`added_cond_kwargs`."
        )
    if isinstance(embeds, Tensor):
        embeds = [embeds.unsqueeze(1) if embeds.dim() == 2 else embeds]
    for i, e in enumerate(embeds):
        dims = (3,) if isinstance(projections, ImageProjections) else (3, 4)
        if e.dim() not in dims or e.shape[0] != batch and e.shape[0] != batch * frames:
            raise ValueError(
                f"`image_embeds[{i}]` has shape {tuple(e.shape)}, expected ({batch} per clip or "
                f"{batch * frames} per frame, images, width)."
            )
    tokens = projections([e.to(dtype) for e in embeds])
    masks = (inputs.cross_attention_kwargs or {}).get("ip_adapter_masks")
    return tokens, None if masks is None else _check_masks(masks, tokens, batch)


def _check_masks(masks: Sequence[Tensor | None], tokens: list[Tensor], batch: int) -> list[Tensor | None]:
    if len(masks) != len(tokens):
        raise ValueError(f"`ip_adapter_masks` holds {len(masks)} masks, expected {len(tokens)}, one per IP-Adapter.")
    for i, (mask, images) in enumerate(zip(masks, tokens, strict=True)):
        if mask is None:
            continue
        if mask.dim() != 4 or mask.shape[0] != 1 and mask.shape[0] != batch or mask.shape[1] != images.shape[1]:
            raise ValueError(
                f"`ip_adapter_masks[{i}]` has shape {tuple(mask.shape)}, expected (1 or {batch}, "
                f"{images.shape[1]} images, height, width)."
            )
    return list(masks)


def _convert_file(state: Mapping[str, Any], index: int, paths: list[str]) -> dict[str, Tensor]:
    """A published file's layers, numbered 1, 3, 5, ... over the cross-attentions, under diffusers' names."""
    for part in ("image_proj", "ip_adapter"):
        if part not in state:
            raise ValueError(f"the IP-Adapter has no part `{part}`, found {', '.join(map(str, state)) or 'nothing'}.")
    image = state["image_proj"]
    if set(image) != {"proj.weight", "proj.bias", "norm.weight", "norm.bias"}:
        raise ValueError(
            "the IP-Adapter's `image_proj` holds "
            f"{', '.join(sorted(image)[:4])}, expected proj and norm (the plain IP-Adapter form)."
        )
    out = {f"{_PROJECTION}{index}.{k.replace('proj.', 'image_embeds.')}": v for k, v in image.items()}
    layers = state["ip_adapter"]
    if len(layers) != 2 * len(paths):
        raise ValueError(f"the IP-Adapter has {len(layers)} layers, expected {2 * len(paths)}.")
    for i, path in enumerate(paths):
        for name in ("to_k_ip", "to_v_ip"):
            out[f"{path}.processor.{name}.{index}.weight"] = layers[f"{2 * i + 1}.{name}.weight"]
    return out
