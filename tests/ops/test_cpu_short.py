"""Attention of short sequences as two batched products, against softmax in float64."""

import pytest
import torch

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
