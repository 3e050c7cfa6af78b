"""Queries, keys and values of the same tokens as one operation in training: the layers' own values and gradients."""

import pytest
import torch
from torch import nn

from unet_motion.model.attention import Attention
from unet_motion.model.layer_factory import make_factory
from unet_motion.ops.linear import shared_input


def layers_of(width: int, trained: tuple[bool, ...]) -> list[nn.Linear]:
    layers = [nn.Linear(width, 2 * width, bias=False) for _ in trained]
    for layer, wanted in zip(layers, trained, strict=True):
        layer.requires_grad_(wanted)
    return layers


@pytest.mark.parametrize("trained", [(True, True, True), (False, True, False), (False, False, False)], ids=str)
@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 5, 12), (0, 12)], ids=str)
def test_values_and_gradients_are_the_layers_own(trained, shape):
    torch.manual_seed(1)
    layers = layers_of(12, trained)
    # Neither the tokens nor the gradients lie in one piece.
    x = torch.randn(*shape[:-1], 24)[..., ::2].requires_grad_()
    found = shared_input.project(x, layers)
    expected = [layer(x) for layer in layers]
    ways = [torch.randn(*shape[:-1], 48)[..., ::2] for _ in layers]
    inputs = [x, *(layer.weight for layer, wanted in zip(layers, trained, strict=True) if wanted)]
    mine = torch.autograd.grad(found, inputs, ways)
    theirs = torch.autograd.grad(expected, inputs, ways)
    for a, b in zip((*found, *mine), (*expected, *theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_second_derivatives():
    torch.manual_seed(2)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    layers = [layer.double() for layer in layers_of(4, (True, True, True))]

    def first(*tensors):
        queries, keys, values = shared_input._Projections.apply(*tensors)
        return queries.sin() * keys + values

    assert torch.autograd.gradgradcheck(first, (x, *(layer.weight for layer in layers)))


def test_who_is_served():
    x, layers = torch.randn(3, 4, requires_grad=True), layers_of(4, (True, True, True))
    assert shared_input.serves(layers, x)
    layers[1].read_weights = lambda layer, tokens: (layer.weight, None)
    assert not shared_input.serves(layers, x), "a host's weights"
    del layers[1].read_weights
    assert not shared_input.serves(layers, x.detach())
    assert not shared_input.serves([*layers[:2], nn.Linear(4, 8)], x), "a bias"
    assert not shared_input.serves([*layers[:2], type("Other", (nn.Linear,), {})(4, 8, False)], x)
    with torch.no_grad():
        assert not shared_input.serves(layers, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not shared_input.serves(layers, x)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        handle = getattr(layers[1], register)(lambda *args: None)
        assert not shared_input.serves(layers, x), register
        handle.remove()
    assert shared_input.serves(layers, x)


def test_attention_calls_layers_with_hooks(monkeypatch):
    """As a LoRA's, which changes what the layer gives."""
    attention = Attention(make_factory(None, None, None, None), 8, 2, 4)
    used = []
    original = shared_input.project
    monkeypatch.setattr(shared_input, "project", lambda *args: used.append(1) or original(*args))
    x = torch.randn(2, 3, 8, requires_grad=True)
    plain = attention.project(x, None, fused=False)
    assert used == [1]
    handle = attention.to_k.register_forward_hook(lambda module, args, out: out + 1)
    changed = attention.project(x, None, fused=False)
    handle.remove()
    assert used == [1]
    torch.testing.assert_close(changed[1], plain[1] + 1)
    attention.project(x, torch.randn(2, 5, 8), fused=False)
    assert used == [1], "the text is another input"
