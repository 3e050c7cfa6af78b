"""A layer that computes in a way of its own is called: no fast way reads its weights past it."""

from __future__ import annotations

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unet_motion import kernels
from unet_motion.ops import conv as convolutions
from unet_motion.ops import group_norm, layer_norm, linear
from unet_motion.ops.conv import cpu as conv_on_cpu
from unet_motion.ops.linear import cpu as linear_on_cpu
from unet_motion.ops.linear import shared_input


def own_forward(layer: nn.Module) -> nn.Module:
    """As extensions replace it: for one layer."""
    before = layer.forward
    layer.forward = lambda x: 2 * before(x) + 1
    return layer


def own_class(layer: nn.Module) -> nn.Module:
    class Other(type(layer)):
        def forward(self, x):
            return 2 * super().forward(x) + 1

    layer.__class__ = Other
    return layer


def own_weight(layer: nn.Module) -> nn.Module:
    """As torch's parametrizations make one, such as quantised or normalised weights."""

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def seamless(conv: nn.Conv2d) -> nn.Conv2d:
    """As extensions make pictures that fit to themselves."""

    def forward(self, x, weight, bias):
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias, self.stride)

    conv._conv_forward = types.MethodType(forward, conv)
    return conv


def circular(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, padding_mode="circular")


def dilated(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, dilation=2)


def grouped(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, groups=2)


def words_for_padding(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding="same")


ANY = (own_forward, own_class, own_weight)
CONVOLUTIONS = (*ANY, seamless, circular, dilated, grouped, words_for_padding)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("asked", [False, True], ids=["", "kernel asked for"])
@pytest.mark.parametrize("replace", ANY)
@torch.no_grad()
def test_norms(replace, asked, mode, monkeypatch):
    for module in (group_norm, layer_norm) if asked else ():
        monkeypatch.setattr(module, "wanted", lambda *_: True)
    x = pictures(4, 12, 5, 3)  # groups of three channels, which have a way of their own on a CPU
    norm = replace(nn.GroupNorm(4, 12))
    with kernels.use(mode):
        for frames, scope, clip in ((1, "frame", x), (4, "clip", x.transpose(0, 1)[None].flatten(2, 3))):
            found = group_norm.scoped_group_norm(norm, x, frames, scope)
            expected = norm(clip) if scope == "frame" else norm(clip).view(12, 4, 5, 3).transpose(0, 1)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        norm, tokens = replace(nn.LayerNorm(12)), torch.randn(2, 3, 4, 12)
        torch.testing.assert_close(layer_norm.add_layer_norm(norm, tokens)[1], norm(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["product", "planes", "as it lies"])
@pytest.mark.parametrize("size", [(1, 4, 6), (2, 18, 20)], ids=["few pixels", "many pixels"])
@pytest.mark.parametrize("replace", CONVOLUTIONS)
@torch.no_grad()
def test_convolutions(replace, size, way, monkeypatch):
    monkeypatch.setattr(conv_on_cpu, "PRODUCT_FROM", 0 if way == "product" else 1 << 40)
    monkeypatch.setattr(conv_on_cpu, "PLANES_FROM", 0 if way == "planes" else 1 << 40)
    conv = replace(nn.Conv2d(32, 32, 3, padding=1))
    x = pictures(size[0], 32, *size[1:])
    torch.testing.assert_close(convolutions.convolve(conv, x), conv(x), rtol=1e-4, atol=1e-5)
    twice = F.interpolate(x, scale_factor=2, mode="nearest")
    torch.testing.assert_close(convolutions.convolve_upsampled(conv, x, None), conv(twice), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("replace", ANY)
def test_convolutions_of_single_pixels(replace):
    conv, x = replace(nn.Conv2d(8, 6, 1)), pictures(2, 8, 5, 3)
    torch.testing.assert_close(convolutions.convolve(conv, x), conv(x))


@pytest.mark.parametrize("replace", ANY)
@torch.no_grad()
def test_linear_layers_in_bfloat16(replace, monkeypatch):
    monkeypatch.setattr(linear_on_cpu, "BFLOAT16", True)
    layer = replace(nn.Linear(16, 24).bfloat16())
    x = torch.randn(linear_on_cpu.LEAST_ROWS + 3, 16, dtype=torch.bfloat16)
    assert torch.equal(linear.cpu.linear(layer, x), layer(x))


@pytest.mark.parametrize("replace", ANY)
def test_linear_layers_of_one_input(replace):
    layers = [nn.Linear(8, 6, bias=False), replace(nn.Linear(8, 6, bias=False))]
    x = torch.randn(5, 8, requires_grad=True)
    assert not shared_input.serves(layers, x)
    assert shared_input.serves(layers[:1], x)
