"""Keys and values of the text, kept over the steps of a run."""

import pytest
import torch

from tests.reference import TINY, randomise
from unet_motion import ForwardOptions, TextKeys, UNetMotionModel

FRAMES = 3


@pytest.fixture
def unet():
    return randomise(UNetMotionModel(**TINY))


@pytest.fixture
def products(unet):
    """Counts the products with the text."""
    seen = []
    for path, attention in unet.attention_layers:
        if attention.is_cross_attention:
            for layer in (attention.to_k, attention.to_v):
                plain = layer.forward
                layer.forward = lambda x, plain=plain, path=path: seen.append(path) or plain(x)
    return seen


def step(unet, text, options, timestep=9.0):
    sample = torch.randn(2 * FRAMES, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return unet.forward_frames(sample, timestep, text, FRAMES, options=options)


def test_the_text_is_read_once_for_all_steps(unet, products):
    text, options = torch.randn(2, 5, 12), ForwardOptions(text_keys=TextKeys())
    layers = 2 * sum(a.is_cross_attention for _, a in unet.attention_layers)
    assert layers
    for timestep in (9.0, 500.0, 3.0):
        out = step(unet, text, options, timestep)
        read = len(products)
        assert torch.equal(out, step(unet, text, None, timestep))
        del products[read:]
    assert len(products) == layers


def test_another_text_and_a_text_that_is_edited_are_read(unet, products):
    text, options = torch.randn(2, 5, 12), ForwardOptions(text_keys=TextKeys())
    first = step(unet, text, options)
    text.mul_(-1)  # the same tensor, and nothing else in between
    assert torch.equal(step(unet, text, options), step(unet, text, None))
    assert (step(unet, text, options) - first).abs().max() > 1e-3
    text.mul_(-1)
    assert torch.equal(step(unet, text.clone(), options), first)
    other = torch.randn(2, 7, 12)
    assert torch.equal(step(unet, other, options), step(unet, other, None))


@pytest.mark.parametrize("change", ["edit", "replace", "hook"])
def test_changed_weights_act_at_once(unet, change):
    text, options = torch.randn(2, 5, 12), ForwardOptions(text_keys=TextKeys())
    before = step(unet, text, options)
    layer = next(a for _, a in unet.attention_layers if a.is_cross_attention).to_v
    if change == "edit":
        with torch.no_grad():
            layer.weight.mul_(2)
    elif change == "replace":
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)
    else:
        layer.register_forward_hook(lambda module, args, out: 2 * out)
    after = step(unet, text, options)
    assert not torch.allclose(after, before)
    assert torch.equal(after, step(unet, text, None))


def test_with_gradients_nothing_is_kept(unet):
    text, options = torch.randn(2, 5, 12, requires_grad=True), ForwardOptions(text_keys=TextKeys())
    sample = torch.randn(2 * FRAMES, 4, 6, 6)
    for _ in range(2):
        grad = torch.autograd.grad(unet.forward_frames(sample, 5, text, FRAMES, options=options).sum(), text)[0]
        assert grad.abs().sum() > 0
