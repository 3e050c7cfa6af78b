"""Convolutions on a CPU, each way of computing them against torch's own, in values and on odd sizes."""

import pytest
import torch
import torch.nn.functional as F

from unet_motion.model.layer_factory import make_factory
from unet_motion.model.resnet import Upsample
from unet_motion.ops.conv import convolve
from unet_motion.ops.conv import cpu as convolution

MAKE = make_factory(None, None, torch.float64, None)


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3), (8, 8)])
@pytest.mark.parametrize("grad", [False, True])
def test_upsampling_in_phases_equals_the_convolution_of_the_upsampled_picture(size, grad, few, monkeypatch):
    monkeypatch.setattr(convolution, "FEW_PIXELS", few)
    monkeypatch.setattr(convolution, "MANY_PIXELS", 1)
    torch.manual_seed(0)
    layer, x = Upsample(MAKE, 6), torch.randn(3, 6, *size, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        expected = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        for out in (layer(x, None), layer(x, (2 * size[0], 2 * size[1]))):
            torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        assert layer(x, None).permute(0, 2, 3, 1).is_contiguous()
        odd = (2 * size[0] + 1, 2 * size[1])
        torch.testing.assert_close(layer(x, odd), layer.conv(F.interpolate(x, size=odd, mode="nearest")))
    if grad:
        wanted = torch.autograd.grad(expected.square().sum(), layer.conv.weight)[0]
        got = torch.autograd.grad(layer(x, None).square().sum(), layer.conv.weight)[0]
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_upsampling_reads_the_weights_of_each_call(monkeypatch):
    monkeypatch.setattr(convolution, "MANY_PIXELS", 1)
    layer, x = Upsample(MAKE, 4), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        first = layer(x, None)
        layer.conv.weight.mul_(2)
        torch.testing.assert_close(
            layer(x, None) - layer.conv.bias[:, None, None], 2 * (first - layer.conv.bias[:, None, None])
        )


WAYS = {"product": (0, 0), "planes": (1 << 30, 0), "lies": (1 << 30, 1 << 30)}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Each way to compute a convolution, whatever this machine's processor would choose."""
    product, planes = WAYS[request.param]
    monkeypatch.setattr(convolution, "PRODUCT_FROM", product)
    monkeypatch.setattr(convolution, "PLANES_FROM", planes)
    return request.param


def channels_last(*shape):
    return torch.randn(shape, dtype=torch.float64).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel,stride,padding", [(3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 1, 0), (1, 2, 0), (5, 1, 2)])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 4, 4), (3, 5, 7), (1, 8, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_few_pixels_equals_torchs(kernel, stride, padding, size, bias, way):
    torch.manual_seed(0)
    n, height, width = size
    height, width = max(height, kernel - 2 * padding), max(width, kernel - 2 * padding)
    conv = torch.nn.Conv2d(6, 10, kernel, stride, padding, bias=bias, dtype=torch.float64)
    x = channels_last(n, 6, height, width)
    expected = conv(x)
    with torch.no_grad():
        out = convolve(conv, x)
        torch.testing.assert_close(out, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(convolution.by_product(x, conv.weight, conv.bias, stride, padding), out)
    assert out.shape == expected.shape and out.permute(0, 2, 3, 1).is_contiguous()
    torch.testing.assert_close(convolve(conv, x), expected, rtol=1e-12, atol=1e-12)
    if kernel > 1:
        # Where a gradient is needed the layer itself computes.
        planes = x if way == "lies" else x.contiguous()
        assert torch.equal(convolve(conv, x), conv(planes))
    # Frozen layers do not change with the mode.
    conv.requires_grad_(False)
    assert torch.equal(convolve(conv, x), out)


@pytest.mark.parametrize("kernel,stride,padding", [(3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 1, 0), (5, 1, 2)])
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_of_a_convolution_of_few_pixels_are_the_layers_own(kernel, stride, padding, frozen, way):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 10, kernel, stride, padding, dtype=torch.float64).requires_grad_(not frozen)
    x = channels_last(3, 6, 5, 7)
    wanted = [x.requires_grad_(), *([] if frozen else conv.parameters())]

    def gradients(out):
        assert out.requires_grad
        return torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), wanted)

    out = convolve(conv, x)
    assert out.permute(0, 2, 3, 1).is_contiguous()
    for found, expected in zip(gradients(out), gradients(conv(x)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_hosts_weights_reach_a_convolution_and_gradients_take_its_own_layer(kernel, way, monkeypatch):
    monkeypatch.setattr(convolution, "GRADIENT_FROM", 0)
    conv, x = torch.nn.Conv2d(4, 6, kernel, padding=kernel // 2, dtype=torch.float64), channels_last(2, 4, 3, 5)
    factor, used = torch.tensor(2.0, dtype=torch.float64, requires_grad=True), []

    def patched(layer, x):
        used.append(layer)
        return factor * layer.weight, layer.bias

    conv.read_weights = patched
    with torch.no_grad():
        expected = F.conv2d(
            x, 2 * conv.weight if way == "product" or kernel == 1 else conv.weight, conv.bias, 1, kernel // 2
        )
        torch.testing.assert_close(convolve(conv, x), expected)
    # What the host trains is no parameter of the layer, so that it looks frozen; only the layer itself can tell.
    conv.requires_grad_(False)
    used.clear()
    out = convolve(conv, x.requires_grad_())
    assert not used and torch.autograd.grad(out.sum(), x)[0].shape == x.shape


def test_a_convolution_of_few_pixels_calls_a_hooked_layer(monkeypatch):
    conv, x = torch.nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        plain = convolve(conv, x)
        conv.register_forward_hook(lambda module, args, out: out + 1)
        torch.testing.assert_close(convolve(conv, x), plain + 1)


@pytest.mark.parametrize("size", [1, 3])
def test_a_hook_before_a_convolution_is_called(size):
    conv, x = torch.nn.Conv2d(4, 4, size, padding=size // 2), torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        doubled = convolve(conv, 2 * x)
        conv.register_forward_pre_hook(lambda module, args: (2 * args[0],))
        torch.testing.assert_close(convolve(conv, x), doubled)


@pytest.mark.parametrize("kernel,stride,padding", [(3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 1, 2)])
@pytest.mark.parametrize("size", [(1, 2, 2), (2, 4, 4), (3, 5, 7)])
def test_a_frozen_convolution_has_the_gradient_of_its_windows(kernel, stride, padding, size, monkeypatch):
    """The same values as without gradients, to the last bit, and no trained convolution takes this way."""
    monkeypatch.setattr(convolution, "PRODUCT_FROM", 0)
    monkeypatch.setattr(convolution, "GRADIENT_FROM", 0)
    torch.manual_seed(1)
    n, height, width = size
    height, width = max(height, kernel - 2 * padding), max(width, kernel - 2 * padding)
    conv = torch.nn.Conv2d(6, 10, kernel, stride, padding, dtype=torch.float64).requires_grad_(False)
    x = channels_last(n, 6, height, width).requires_grad_()
    out = convolve(conv, x)
    assert type(out.grad_fn).__name__ == "_FrozenProductBackward"
    with torch.no_grad():
        assert torch.equal(convolve(conv, x), out)
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    found, wanted = (torch.autograd.grad((y * slope).sum(), x)[0] for y in (out, conv(x)))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    conv.requires_grad_()
    assert type(convolve(conv, x).grad_fn).__name__ != "_FrozenProductBackward"


@pytest.mark.parametrize("kernel,stride,padding", [(3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 1, 0), (1, 2, 0), (5, 1, 2)])
@pytest.mark.parametrize("size", [(1, 2, 2), (2, 4, 4), (3, 5, 7)])
@pytest.mark.parametrize("product", [True, False])
def test_bfloat16_lies_no_further_from_float64_than_the_layer(kernel, stride, padding, size, product, monkeypatch):
    monkeypatch.setattr(convolution, "BFLOAT16_PRODUCT_FROM", 0 if product else 1 << 30)
    torch.manual_seed(2)
    n, height, width = size
    height, width = max(height, kernel - 2 * padding), max(width, kernel - 2 * padding)
    conv = torch.nn.Conv2d(37, 50, kernel, stride, padding).bfloat16()
    x = channels_last(n, 37, height, width).bfloat16()
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), stride, padding)
    taken = {1: convolution.Algorithm.LINEAR if stride == 1 else None}.get(kernel, convolution.Algorithm.PRODUCT)
    with torch.no_grad():
        assert convolution.choose_algorithm(conv, x) is (taken if product else None)
        mine, plain = convolve(conv, x), conv(x)
    assert mine.dtype == torch.bfloat16 and mine.permute(0, 2, 3, 1).is_contiguous()
    assert (mine - exact).norm() <= 1.02 * (plain - exact).norm()
    if kernel > 1:  # a gradient would add up rounded windows
        assert convolution.choose_algorithm(conv, x) is None
        conv.requires_grad_(False)
        assert convolution.choose_algorithm(conv, x.requires_grad_()) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_up_no_kernels_before_it_multiplies(dtype, monkeypatch):
    monkeypatch.setattr(convolution, "MANY_PIXELS", 1)
    layer, x = Upsample(make_factory(None, None, dtype, None), 6), torch.randn(3, 6, 5, 4).to(dtype)
    with torch.no_grad():
        expected = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        assert torch.equal(layer(x, None), expected)
