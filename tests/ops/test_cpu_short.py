"""Attention of short sequences as two batched products, against softmax in float64."""

import pytest
import torch

from unet_motion.ops.attention import cpu_short
from unet_motion.ops.attention.processors import PROCESSORS


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


def heads_of(tokens, heads):
    """(F, P, heads * dim) as (P, heads, F, dim), as in a motion module."""
    return tokens.transpose(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2)


def distances(name, tokens, heads):
    """How far from float64, relative, the result and the gradients of a processor lie."""
    qkv = [t.clone().requires_grad_() for t in tokens]
    wide = [t.double().requires_grad_() for t in tokens]
    query, key, value = (heads_of(t, heads) for t in wide)
    expected = (query @ key.transpose(-1, -2) * 0.3).softmax(-1) @ value
    out = PROCESSORS[name].attend(*(heads_of(t, heads) for t in qkv), None, 0.3)
    assert out.dtype == tokens[0].dtype
    slope = torch.randn(expected.shape, dtype=torch.float64).to(out.dtype)
    found = out, *torch.autograd.grad(out, qkv, slope)
    exact = expected, *torch.autograd.grad(expected, wide, slope.double())
    pairs = zip(found, exact, strict=True)
    return [((mine - true).norm() / true.norm().clamp_min(1e-9)).item() for mine, true in pairs]


@pytest.mark.parametrize(
    "length,pixels,heads,dim",
    [(1, 3, 2, 5), (7, 5, 3, 8), (8, 9, 8, 40), (8, 4, 2, 80), (13, 3, 2, 24), (16, 6, 2, 20)],
)
def test_bfloat16_lies_no_further_from_float64_than_torchs_attention(length, pixels, heads, dim):
    torch.manual_seed(length)
    tokens = [2 * torch.randn(length, pixels, heads * dim).bfloat16() for _ in range(3)]
    assert cpu_short.serves(*(heads_of(t, heads) for t in tokens), None)
    for mine, plain in zip(distances("auto", tokens, heads), distances("sdpa", tokens, heads), strict=True):
        assert mine <= 1.02 * plain + 1e-9
    query, key, value = (heads_of(t, heads) for t in tokens)
    out = PROCESSORS["auto"].attend(query, key, value, None, 0.3)
    assert out.permute(2, 0, 1, 3).is_contiguous(), "the order of tokens"
    exact = (query.double() @ key.double().transpose(-1, -2) * 0.3).softmax(-1) @ value.double()
    torch.testing.assert_close(out, exact.bfloat16(), rtol=2**-7, atol=1e-5)  # one rounding, now and then the other way


def test_longer_sequences_in_bfloat16_are_torchs():
    query, key, value = (heads_of(torch.randn(16, 3, 80).bfloat16(), 2) for _ in range(3))
    assert not cpu_short.serves(query, key, value, None)
    expected = PROCESSORS["sdpa"].attend(query, key, value, None, 0.3)
    assert torch.equal(PROCESSORS["auto"].attend(query, key, value, None, 0.3), expected)
