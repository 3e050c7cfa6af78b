"""Products in 8 bits (float8_e4m3fn), for cards that multiply those at twice the rate of 16 bits.

A layer keeps its weights rounded, as float8 numbers times one scale, a power of two: that rounds as any other scale
does, as floating-point numbers are as exact at any size, and then the plain twin's factors are exact in every dtype
(but for weights below what float16 holds).
The input is rounded in each call, at scale 1 and up to 448: what follows a norm is of that size, and a scale measured
in the input would take a pass over memory more (Micikevicius et al., 2022, https://arxiv.org/abs/2209.05433).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..float8 import FLOAT8, LARGEST, rounded
from ..layer import is_hooked, is_own, on_card
from .packed import joined

MULTIPLE = 16
"""Inputs and outputs of a product have to be a multiple of these on a card."""

SCALE = "weight_scale"
"""Name of a layer's scale beside `weight`; a float32 tensor of one number, so that no call waits for its value."""

Product = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, torch.dtype], Tensor]
"""(x (M, K), weight (N, K), scale of x, scale of the weight, bias (N,), dtype) -> (M, N) of that dtype."""


def fits(layer: nn.Module) -> bool:
    """Whether a layer is torch's own linear layer or 1x1 convolution, of a size that a card multiplies in float8."""
    if is_own(layer, nn.Conv2d):
        conv = cast(nn.Conv2d, layer)
        if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.padding != (0, 0) or conv.groups != 1:
            return False
    elif not is_own(layer, nn.Linear):
        return False
    return all(size % MULTIPLE == 0 for size in cast(Tensor, layer.weight).shape[:2])


def declines(layer: nn.Module) -> str | None:
    """Why a layer of any size cannot be rounded: what it is, and what was expected; None where it can, or is."""
    if is_float8(layer):
        return None
    if not is_own(layer, nn.Linear) and not is_own(layer, nn.Conv2d):
        return f"is a {type(layer).__name__} that a host computes, expected one of torch's own"
    weight = cast(Tensor, layer.weight).detach()
    if weight.element_size() == 1:
        return f"has weights in {weight.dtype}, expected 16 or 32 bits"
    if weight.device.type == "meta":
        return "is on the device meta, expected weights"
    return None if torch.isfinite(weight.abs().amax().float()) else "has weights that are not finite, expected numbers"


@torch.no_grad()
def convert(layers: Sequence[nn.Module]) -> None:
    """Turn layers that fit and read the same input into float8, with one scale; they stay the same modules."""
    weights = [cast(Tensor, layer.weight).detach() for layer in layers]
    scale = scale_of(torch.stack([weight.abs().amax().float() for weight in weights]).amax())
    for layer, weight in zip(layers, weights, strict=True):
        cast(Any, layer).__class__ = Float8Conv2d if isinstance(layer, nn.Conv2d) else Float8Linear
        layer.weight = nn.Parameter(rounded(weight.float() / scale), requires_grad=False)
        layer.register_buffer(SCALE, scale.clone())
        layer.register_buffer("input_scale", torch.ones_like(scale), persistent=False)
        cast(_Float8, layer).same_scale = None
        cast(_Float8, layer).choose_product()
    pack(layers)


@torch.no_grad()
def pack(layers: Sequence[nn.Module]) -> None:
    """Put the weights of float8 layers that read the same input behind each other, at the largest of their scales."""
    if len(layers) < 2 or _packed(layers) is not None or not all(isinstance(layer, _Float8) for layer in layers):
        return
    held = cast(Sequence[_Float8], layers)
    scale = torch.stack([layer.weight_scale for layer in held]).amax()
    parts = torch.cat([rounded(layer.weight.float() * (layer.weight_scale / scale)) for layer in held])
    together = object()
    for layer, part in zip(held, parts.split([len(layer.weight) for layer in held]), strict=True):
        layer.weight.data, layer.weight_scale, layer.same_scale = part, scale.clone(), together


def scale_of(largest: Tensor) -> Tensor:
    """The power of two from which on the largest absolute weight fits: of largest / 448, rounded up; 1 of zeros.

    At least float16's least number, 2**-24: below that it would be 0 there.
    """
    share, exponent = torch.frexp(largest / LARGEST)
    exponent = exponent - (share == 0.5).int()
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent.clamp_min(-24)), 1.0)


def project(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...] | None:
    """``layer(x)`` of float8 layers that read the same x (..., C), which is rounded once; None for other layers."""
    if not all(isinstance(layer, _Float8) and not is_hooked(layer) for layer in layers):
        return None
    held, rows = cast(Sequence[_Float8], layers), rounded(x.reshape(-1, x.shape[-1]))
    shared = _packed(layers)
    if shared is not None:
        _refuse_gradients(*(layer.weight for layer in held))
    if shared is None:
        outs = [layer.multiply(rows, x) for layer in held]
    else:
        whole = held[0].multiply(rows, x, shared)
        outs = list(whole.split([len(layer.weight) for layer in held], dim=-1))
    return tuple(_like(x, out) for out in outs)


def _packed(layers: Sequence[nn.Module]) -> Tensor | None:
    """The weights of several layers without biases as one tensor, where they lie so, and at one scale; else None."""
    if torch.compiler.is_compiling() or not all(isinstance(layer, _Float8) for layer in layers):
        return None
    held = cast(Sequence[_Float8], layers)
    if held[0].same_scale is None or any(layer.same_scale is not held[0].same_scale for layer in held):
        return None
    if any(layer.bias is not None for layer in held):
        return None
    return joined([layer.weight for layer in held])


class _Float8(nn.Module):
    """A layer whose `weight` is in float8 and means itself times `weight_scale`."""

    weight: nn.Parameter
    weight_scale: Tensor
    input_scale: Tensor
    bias: nn.Parameter | None
    product: Product | None
    """What multiplies float8 on the layer's device, None for the plain twin."""
    same_scale: object | None
    """One object of layers whose scales are equal, which no call has to look into; None of others."""

    def choose_product(self) -> None:
        device = self.weight.device
        self.product = product_on(device) if on_card(device) else None

    def multiply(self, rows: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Rounded rows (M, C) of x times the layer's weights, or others at its scale, plus the bias; as x is."""
        _refuse_gradients(x, *self.parameters(recurse=False))
        dtype = _result_dtype(x)
        weight = (self.weight if weight is None else weight).flatten(1)
        bias = None if self.bias is None else self.bias.to(dtype)
        if self.product is None or dtype == torch.float64:
            return twin(rows, weight, self.weight_scale, bias, dtype)
        # In float32 no product adds a bias.
        inside = None if dtype == torch.float32 else bias
        rows = rows.contiguous()  # what was rounded column by column still lies so
        out = self.product(rows, weight, self.input_scale, self.weight_scale, inside, dtype)
        return out if bias is None or inside is not None else out + bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves of the layer reach all, casts the bias alone: weights and scale keep their dtypes."""
        bits = {FLOAT8: torch.uint8, torch.float32: torch.int32}
        kept = {id(tensor): bits[tensor.dtype] for tensor in (self.weight, self.weight_scale, self.input_scale)}

        def moved(tensor: Tensor) -> Tensor:
            seen = kept.get(id(tensor))
            if seen is None:
                return fn(tensor)
            there = fn(tensor.view(seen))
            # Some casts, such as `type`, reach whole numbers too; of such only the device is taken.
            return (there if there.dtype == seen else tensor.view(seen).to(there.device)).view(tensor.dtype)

        super()._apply(moved, recurse)
        self.choose_product()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Weights of another dtype are rounded as they are loaded, at a scale of each layer's own."""
        self.same_scale = None
        given = state_dict.get(f"{prefix}weight")
        if isinstance(given, Tensor) and given.dtype != FLOAT8 and given.is_floating_point():
            scale = scale_of(given.detach().abs().amax().float())
            own = {name: value for name, value in state_dict.items() if name.startswith(prefix)}
            state_dict = {**own, f"{prefix}weight": rounded(given.detach().float() / scale), prefix + SCALE: scale}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight={self.weight.dtype}"


class Float8Linear(_Float8, nn.Linear):  # type: ignore[misc]
    """A linear layer in float8."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., O)."""
        return _like(x, self.multiply(rounded(x.reshape(-1, x.shape[-1])), x))


class Float8Conv2d(_Float8, nn.Conv2d):  # type: ignore[misc]
    """A 1x1 convolution in float8, as a product."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, O, H, W), channels last."""
        n, c, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(-1, c)
        return self.multiply(rounded(tokens), x).view(n, height, width, -1).permute(0, 3, 1, 2)


def _like(x: Tensor, rows: Tensor) -> Tensor:
    """Rows (M, O) in the shape of x (..., C)."""
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


def is_float8(layer: nn.Module) -> bool:
    """Whether a layer computes in float8."""
    return isinstance(layer, _Float8)


def twin(rows: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The plain twin of a product in float8: the same factors in another dtype, where they are exact."""
    return F.linear(rows.to(dtype), weight.to(dtype) * scale.to(dtype), bias)


def _result_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    # A compiler cannot ask whether there is autocast for a device.
    if (torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _refuse_gradients(*tensors: Tensor) -> None:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise RuntimeError(
            "float8 products have no gradient, and one was asked for; expected a call within torch.no_grad(), or a "
            "model without float8 products to train."
        )


@functools.lru_cache
def product_on(device: torch.device) -> Product | None:
    """A product of float8 numbers that works on a device, found by trying; None where torch has none."""
    ways = () if device.type == "meta" else (scaled_mm, scaled_mm_operator)
    return next((way for way in ways if _works(way, device)), None)


def _works(product: Product, device: torch.device) -> bool:
    """Whether 16 twos times as many threes, at the scales 1 and 1/4, are 24."""
    with torch.inference_mode():
        two, three = (torch.full((MULTIPLE, MULTIPLE), value, device=device).to(FLOAT8) for value in (2.0, 3.0))
        scales = torch.ones((), device=device), torch.full((), 0.25, device=device)
        try:
            return bool((product(two, three, *scales, None, torch.bfloat16) == 24).all())
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return False


def scaled_mm(
    x: Tensor, weight: Tensor, of_x: Tensor, of_weight: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    functions = cast(Any, F)
    whole = functions.ScalingType.TensorWise
    return functions.scaled_mm(x, weight.t(), of_x, whole, of_weight, whole, bias=bias, output_dtype=dtype)


def scaled_mm_operator(
    x: Tensor, weight: Tensor, of_x: Tensor, of_weight: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return torch.ops.aten._scaled_mm(x, weight.t(), of_x, of_weight, bias=bias, out_dtype=dtype)
