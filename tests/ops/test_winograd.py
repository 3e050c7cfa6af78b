"""Winograd's convolution against a direct one in float64, and where it is taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unet_motion.ops.conv import convolve, winograd

WIDE = 320


def picture(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 5, 6, 4), (5, 7, 2, 10), (3, 12, 8, 14)])
@pytest.mark.parametrize("kernels, pixels", [(1 << 30, 1 << 30), (1 << 12, 1 << 13), (1, 1)])
def test_it_is_a_convolution(monkeypatch, shape, bias, kernels, pixels):
    """At sizes that fit in one part, in several of which the last is shorter, and in parts of one."""
    monkeypatch.setattr(winograd, "KERNELS_AT_ONCE", kernels)
    monkeypatch.setattr(winograd, "PIXELS_AT_ONCE", pixels)
    x, weight = picture(*shape, dtype=torch.float64), torch.randn(9, shape[1], 3, 3, dtype=torch.float64)
    bias = torch.randn(9, dtype=torch.float64) if bias else None
    found = winograd.convolve(x, weight, bias)
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_it_is_as_exact_as_a_direct_convolution_and_more():
    x, weight, bias = picture(3, WIDE, 16, 18), torch.randn(352, WIDE, 3, 3) / 50, torch.randn(352)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    error = (winograd.convolve(x, weight, bias) - exact).abs().max()
    direct = (F.conv2d(x, weight, bias, padding=1) - exact).abs().max()
    # The sums over channels are as long on every processor; how a direct convolution adds up is its own affair.
    assert error <= 1e-6 * exact.abs().max() and error <= 2 * direct


def test_input_of_any_strides_is_left_as_it_was():
    x = torch.randn(2, 8, 6, 12)[:, :, :, ::2]
    before, weight = x.clone(), torch.randn(4, 8, 3, 3)
    torch.testing.assert_close(winograd.convolve(x, weight, None), F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(x, before)


@pytest.fixture
def calls(monkeypatch):
    """The calls of Winograd's way."""
    found, original = [], winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *given: found.append(given) or original(*given))
    return found


@pytest.mark.parametrize(
    "shape, options, taken",
    [
        ((2, WIDE, 16, 16), {}, True),
        ((8, WIDE, 8, 8), {}, True),
        ((1, WIDE, 16, 16), {}, False),
        ((2, WIDE, 17, 16), {}, False),
        ((2, WIDE, 16, 17), {}, False),
        ((2, WIDE, 32, 32), {"stride": 2}, False),
        ((2, WIDE, 18, 18), {"padding": 0}, False),
        ((2, WIDE, 16, 16), {"kernel_size": 5, "padding": 2}, False),
        ((2, WIDE, 16, 16), {"out_channels": 128}, False),
    ],
)
def test_it_is_taken_where_it_is_faster_and_right(calls, shape, options, taken):
    given = {"out_channels": WIDE, "kernel_size": 3, "padding": 1, **options}
    layer, x = nn.Conv2d(WIDE, **given).requires_grad_(False), picture(*shape)
    torch.testing.assert_close(convolve(layer, x), layer(x), rtol=1e-4, atol=1e-5)
    assert bool(calls) is taken


def test_gradients_and_hooks_take_the_layer(calls):
    layer, x = nn.Conv2d(WIDE, WIDE, 3, padding=1), picture(2, WIDE, 16, 16)
    loss = convolve(layer, x.requires_grad_()).square().sum()
    found = torch.autograd.grad(loss, (x, layer.weight))
    expected = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)
    seen = []
    layer.register_forward_hook(lambda *given: seen.append(given))
    with torch.no_grad():
        convolve(layer, x)
    assert seen and not calls


def test_a_hosts_weights_are_read_in_each_call(calls):
    """Also those that want a gradient of which the layer does not know."""
    layer, x = nn.Conv2d(WIDE, WIDE, 3, padding=1).requires_grad_(False), picture(2, WIDE, 16, 16)
    factor = torch.ones((), requires_grad=True)

    def weights(module, _):
        return module.weight * factor, module.bias

    layer.read_weights = weights
    with torch.no_grad():
        once = convolve(layer, x)
        factor.fill_(3.0)
        torch.testing.assert_close(convolve(layer, x), 3 * once - 2 * layer.bias[:, None, None], rtol=1e-4, atol=1e-4)
    assert len(calls) == 2
    convolve(layer, x)
    assert len(calls) == 2


def test_half_precision_takes_the_layer(calls):
    """Its transforms, rounded, would lie four times as far from float64."""
    layer, x = nn.Conv2d(WIDE, WIDE, 3, padding=1).requires_grad_(False).bfloat16(), picture(2, WIDE, 16, 16).bfloat16()
    assert torch.equal(convolve(layer, x), layer(x)) and not calls
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    error = (winograd.convolve(x, layer.weight, layer.bias) - exact).norm()
    assert error > 2 * (layer(x) - exact).norm()
