"""Each fast path of a CPU against its plain twin, in values and on odd sizes."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unet_motion import UNetMotionModel
from unet_motion.forward.call import Call
from unet_motion.model import motion_module as motion
from unet_motion.model.layer_factory import make_factory
from unet_motion.model.motion_module import MotionModule
from unet_motion.model.resnet import Upsample
from unet_motion.model.transformer import GEGLU, FeedForward
from unet_motion.ops.attention.processors import PROCESSORS
from unet_motion.ops.conv import cpu as convolution
from unet_motion.ops.feed_forward import cpu as feed_forward
from unet_motion.ops.layer import module_weights

MAKE = make_factory(None, None, torch.float64, None)


@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 5, 7, 8), (1, 1, 8), (6, 2, 33, 8)])
def test_feed_forward_in_parts_and_in_place_equals_the_formula(shape, monkeypatch):
    torch.manual_seed(0)
    layer, tokens = FeedForward(MAKE, 8), torch.randn(shape, dtype=torch.float64)
    value, gate = F.linear(tokens, layer.net[0].proj.weight, layer.net[0].proj.bias).chunk(2, dim=-1)
    expected = F.linear(value * F.gelu(gate), layer.net[2].weight, layer.net[2].bias)
    before = tokens.clone()
    monkeypatch.setattr(feed_forward, "CPU_ROWS", 1)
    for chunk in (1, 8 * 8 * 5, 1 << 22):
        monkeypatch.setattr(feed_forward, "CPU_CHUNK", chunk)
        with torch.no_grad():
            torch.testing.assert_close(layer(tokens), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(tokens, before)
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-12, atol=1e-12)


def test_feed_forward_calls_a_hooked_layer_once_with_all_tokens(monkeypatch):
    monkeypatch.setattr(feed_forward, "CPU_CHUNK", 1)
    monkeypatch.setattr(feed_forward, "CPU_ROWS", 1)
    layer, seen = FeedForward(MAKE, 8), []
    tokens = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        plain = layer(tokens)
        handle = layer.net[0].proj.register_forward_hook(lambda m, args, out: seen.append(args[0].shape) or 2 * out)
        assert not torch.allclose(layer(tokens), plain)
        handle.remove()
        torch.testing.assert_close(layer(tokens), plain)
    assert seen == [tokens.shape]


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
        out = convolution.convolve(conv, x, module_weights)
        torch.testing.assert_close(out, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(convolution.by_product(x, conv.weight, conv.bias, stride, padding), out)
    assert out.shape == expected.shape and out.permute(0, 2, 3, 1).is_contiguous()
    torch.testing.assert_close(convolution.convolve(conv, x, module_weights), expected, rtol=1e-12, atol=1e-12)
    if kernel > 1:
        # Where a gradient is needed the layer itself computes.
        planes = x if way == "lies" else x.contiguous()
        assert torch.equal(convolution.convolve(conv, x, module_weights), conv(planes))
    # Frozen layers do not change with the mode.
    conv.requires_grad_(False)
    assert torch.equal(convolution.convolve(conv, x, module_weights), out)


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

    out = convolution.convolve(conv, x, module_weights)
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

    with torch.no_grad():
        expected = F.conv2d(
            x, 2 * conv.weight if way == "product" or kernel == 1 else conv.weight, conv.bias, 1, kernel // 2
        )
        torch.testing.assert_close(convolution.convolve(conv, x, patched), expected)
    # What the host trains is no parameter of the layer, so that it looks frozen; only the layer itself can tell.
    conv.requires_grad_(False)
    used.clear()
    out = convolution.convolve(conv, x.requires_grad_(), patched)
    assert not used and torch.autograd.grad(out.sum(), x)[0].shape == x.shape


def test_a_convolution_of_few_pixels_calls_a_hooked_layer(monkeypatch):
    conv, x = torch.nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        plain = convolution.convolve(conv, x, module_weights)
        conv.register_forward_hook(lambda module, args, out: out + 1)
        torch.testing.assert_close(convolution.convolve(conv, x, module_weights), plain + 1)


@pytest.mark.parametrize(
    "length,pixels,heads,dim", [(1, 3, 2, 5), (7, 1, 3, 8), (16, 9, 8, 40), (64, 2, 1, 16), (65, 2, 2, 4)]
)
@pytest.mark.parametrize("grad", [False, True])
def test_short_sequences_equal_softmax_in_float64(length, pixels, heads, dim, grad):
    generator = torch.Generator().manual_seed(length)
    # As in a motion module: (F, P, heads * dim) read as (P, heads, F, dim).
    tokens = [torch.randn(length, pixels, heads * dim, generator=generator) for _ in range(3)]
    query, key, value = (
        t.requires_grad_(grad).transpose(0, 1).unflatten(-1, (heads, dim)).transpose(1, 2) for t in tokens
    )
    scores = query.double() @ key.double().transpose(-1, -2) * 0.3
    expected = scores.softmax(-1) @ value.double()
    out = PROCESSORS["auto"].attend(query, key, value, None, 0.3)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    if grad:
        wanted = torch.autograd.grad(expected.square().sum(), tokens)
        for mine, theirs in zip(torch.autograd.grad(out.square().sum(), tokens), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 15, 16, 17])
def test_gradients_of_short_sequences_are_those_of_softmax(length):
    torch.manual_seed(length)
    qkv = [(4 * torch.randn(3, 2, length, 5, dtype=torch.float64)).requires_grad_() for _ in range(3)]

    def gradients(out):
        return torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), qkv)

    query, key, value = qkv
    expected = gradients((query @ key.transpose(-1, -2) * 0.3).softmax(-1) @ value)
    for found, wanted in zip(gradients(PROCESSORS["auto"].attend(*qkv, None, 0.3)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("largest", [1e4, 3e38])
def test_short_sequences_survive_large_scores(largest):
    query = torch.tensor([[largest], [-largest], [0.0]]).view(1, 1, 3, 1)
    out = PROCESSORS["auto"].attend(query, torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 3, 1), query, None, 1.0)
    torch.testing.assert_close(out.view(3)[:2], torch.tensor([largest, 0.0]))


@pytest.mark.parametrize("shape", [(2, 3, 10), (1, 5, 7, 8), (1, 2)])
def test_gradients_of_the_gated_product_are_those_of_the_formula(shape):
    torch.manual_seed(0)
    both = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    layer = GEGLU(MAKE, 4, 4)
    value, gate = both.chunk(2, dim=-1)
    expected = value * F.gelu(gate)
    out = layer.gate(both)
    assert torch.equal(out, expected)
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    wanted = torch.autograd.grad((expected * slope).sum(), both)[0]
    torch.testing.assert_close(torch.autograd.grad((out * slope).sum(), both)[0], wanted, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(layer.gate, both)


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
    out = convolution.convolve(conv, x, module_weights)
    assert type(out.grad_fn).__name__ == "_FrozenProductBackward"
    with torch.no_grad():
        assert torch.equal(convolution.convolve(conv, x, module_weights), out)
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    found, wanted = (torch.autograd.grad((y * slope).sum(), x)[0] for y in (out, conv(x)))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    conv.requires_grad_()
    assert type(convolution.convolve(conv, x, module_weights).grad_fn).__name__ != "_FrozenProductBackward"


@pytest.mark.parametrize("batch,frames,height,width", [(1, 3, 5, 7), (2, 2, 4, 3), (1, 1, 1, 1), (2, 5, 1, 6)])
def test_a_motion_module_in_parts_equals_the_whole(batch, frames, height, width, monkeypatch):
    torch.manual_seed(0)
    module = MotionModule(MAKE, 8, 2, 2, 4, 32)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, call = channels_last(batch * frames, 8, height, width), Call(batch, frames, temb=torch.empty(0))
    expected, before = module(x, call).detach(), x.clone()
    sizes = []
    monkeypatch.setattr(
        MotionModule, "_transform", lambda m, h, c, f=MotionModule._transform: sizes.append(h) or f(m, h, c)
    )
    for most in (1, 2 * batch * frames, 1 << 20):
        monkeypatch.setattr(motion, "rows_at_once", lambda width, most=most: most)
        with torch.no_grad():
            torch.testing.assert_close(module(x, call), expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(x, before)
    pixels = height * width
    assert len(sizes) == -(-pixels // -(-2 // (batch * frames))) + -(-pixels // 4) + 1


def test_a_motion_module_is_whole_where_others_look_at_it(monkeypatch):
    monkeypatch.setattr(motion, "rows_at_once", lambda width: 1)
    module, seen = MotionModule(MAKE, 8, 2, 1, 4, 32), []
    x, call = channels_last(4, 8, 3, 3), Call(2, 2, temb=torch.empty(0))
    layer = module.transformer_blocks[0].attn1.to_q
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    with torch.no_grad():
        module(x, call)
        handle.remove()
        call.processor = lambda attention: lambda attn, tokens, **_: seen.append(tokens.shape) or tokens
        module(x, call)
    assert seen == [(2, 2, 9, 8), (18, 2, 8), (18, 2, 8)]


@pytest.mark.parametrize("change", ["replaced", "added", "taken away"])
def test_a_hook_on_a_layer_that_came_later_sees_all_pixels_too(monkeypatch, change):
    monkeypatch.setattr(motion, "rows_at_once", lambda width: 1)
    module, seen = MotionModule(MAKE, 8, 2, 1, 4, 32), []
    x, call = channels_last(4, 8, 3, 3), Call(2, 2, temb=torch.empty(0))
    attention = module.transformer_blocks[0].attn1
    if change == "taken away":
        attention.to_q.add_module("extra", nn.Identity())
        attention.to_q.extra.register_forward_hook(lambda *_: None)
    counted = module.proj_in.forward
    module.proj_in.forward = lambda tokens: seen.append(tokens.shape[2]) or counted(tokens)
    with torch.no_grad():
        module(x, call)
        assert seen == ([9] if change == "taken away" else [1] * 9)
        seen.clear()
        if change == "replaced":
            attention.to_q = nn.Linear(8, 8, bias=False, dtype=torch.float64)
            attention.to_q.register_forward_hook(lambda *_: None)
        elif change == "added":
            attention.to_q.add_module("extra", nn.Identity())
            attention.to_q.extra.register_forward_hook(lambda *_: None)
        else:
            del attention.to_q.extra
        module(x, call)
    assert seen == ([1] * 9 if change == "taken away" else [9])


def test_a_step_neither_walks_modules_nor_inspects_signatures_nor_waits_for_values(monkeypatch):
    model = UNetMotionModel(
        block_out_channels=(128, 256), down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), cross_attention_dim=16, num_attention_heads=4,
        motion_num_attention_heads=4,
    )  # fmt: skip
    inputs = torch.randn(2, 4, 16, 32, 32), torch.tensor(7), torch.randn(2, 9, 16)
    transform, pixels = MotionModule._transform, []

    def noted(module, hidden, call):
        pixels.append(hidden.shape[2])
        return transform(module, hidden, call)

    def forbidden(*_, **__):
        raise AssertionError("a step must not ask for this")

    monkeypatch.setattr(MotionModule, "_transform", noted)
    with torch.no_grad():
        first = model(*inputs).sample
        for name in ("modules", "named_modules", "children", "named_children", "parameters", "named_parameters"):
            monkeypatch.setattr(nn.Module, name, forbidden)
        for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
            monkeypatch.setattr(torch.Tensor, name, forbidden)
        monkeypatch.setattr(inspect, "signature", forbidden)
        assert torch.equal(model(*inputs).sample, first)
    assert min(pixels) < 16 * 16  # in parts, for which hooks are looked for
