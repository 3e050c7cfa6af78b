"""The feed-forward layer in parts and in place against its formula, and the gradients of its gated product."""

import pytest
import torch
import torch.nn.functional as F

from unet_motion.model.layer_factory import make_factory
from unet_motion.model.transformer import GEGLU, FeedForward
from unet_motion.ops.feed_forward import cpu as feed_forward
from unet_motion.ops.feed_forward import geglu

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


@pytest.mark.parametrize("inplace", [False, True])
def test_the_gated_product_is_written_over_its_input_where_that_may_be(inplace):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    value, gate = x.clone().chunk(2, dim=-1)
    expected, before = value * F.gelu(gate), x.clone()
    out = geglu(x, inplace)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert (out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == inplace
    assert torch.equal(x, before) != inplace
    # What a gradient needs is kept, whatever may be overwritten.
    x = before.requires_grad_()
    (gradient,) = torch.autograd.grad(geglu(x, inplace).sum(), x)
    (wanted,) = torch.autograd.grad((x[..., :8] * F.gelu(x[..., 8:])).sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 10), (1, 5, 7, 8), (1, 2)])
def test_gradients_of_the_gated_product_are_those_of_the_formula(shape):
    torch.manual_seed(0)
    both = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    layer = GEGLU(MAKE, 4, 4)
    value, gate = both.chunk(2, dim=-1)
    expected = value * F.gelu(gate)
    out = layer.gate(both)
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    wanted = torch.autograd.grad((expected * slope).sum(), both)[0]
    torch.testing.assert_close(torch.autograd.grad((out * slope).sum(), both)[0], wanted, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(layer.gate, both)
