"""Attention over keys that are filled up to whole vectors, against float64."""

from __future__ import annotations

import pytest
import torch

from unet_motion.ops.attention import cpu_padded_keys as padded_keys
from unet_motion.ops.attention.processors import PROCESSORS


@pytest.fixture(params=[8, 16], autouse=True)
def vector(request, monkeypatch):
    monkeypatch.setattr(padded_keys, "VECTOR", request.param)
    return request.param


def heads_of(n: int, length: int, heads: int, width: int) -> torch.Tensor:
    return torch.randn(n, length, heads * width).unflatten(-1, (heads, width)).transpose(1, 2)


def reference(query, key, value, mask):
    scores = query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask.double()
    return scores.softmax(dim=-1) @ value.double()


@pytest.mark.parametrize("keys", [77, 13, 255, 31])
@pytest.mark.parametrize("rows", ["none", "one", "all"])
def test_values_and_gradients_are_those_of_float64(keys, rows, vector):
    torch.manual_seed(keys)
    query, key, value = (heads_of(3, length, 2, 20).requires_grad_() for length in (261, keys, keys))
    mask = None
    if rows != "none":
        mask = torch.where(torch.rand(3 if rows == "all" else 1, 1, 1, keys) < 0.3, -torch.inf, 0.0)
        mask[..., 0] = 0
    assert padded_keys.serves(query, key)
    padded = padded_keys.pad(key, value, mask)
    assert padded[0].shape[2] == padded[1].shape[2] == padded[2].shape[-1] == -(-keys // vector) * vector
    out = PROCESSORS["auto"].attend(query, key, value, mask, query.shape[-1] ** -0.5)
    expected = reference(query, key, value, mask)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    gradient = torch.randn_like(out)
    found = torch.autograd.grad(out, (query, key, value), gradient)
    wanted = torch.autograd.grad(expected, (query, key, value), gradient.double())
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_keys_are_added_only_where_that_is_faster(vector):
    query, few = heads_of(1, 256, 2, 8), heads_of(1, 255, 2, 8)
    key = heads_of(1, 77, 2, 8)
    assert padded_keys.serves(query, key)
    assert not padded_keys.serves(few, key)
    assert not padded_keys.serves(query.double(), key.double())
    assert not padded_keys.serves(query, heads_of(1, 80, 2, 8)), "whole vectors already"
    assert not padded_keys.serves(query, heads_of(1, 64 + vector // 2, 2, 8)), "half a vector is computed as fast"
    assert not padded_keys.serves(query, heads_of(1, 527, 2, 8)), "the rest is a small part of many keys"


def test_other_processors_take_the_keys_as_they_are(monkeypatch):
    def refuse(*args):
        raise AssertionError("keys were added")

    monkeypatch.setattr(padded_keys, "pad", refuse)
    query, key, value = (heads_of(1, length, 2, 8) for length in (256, 77, 77))
    for name in ("sdpa", "math", "sliced", "flash"):
        PROCESSORS[name].attend(query, key, value, None, 1.0)


@pytest.mark.parametrize("keys", [77, 29])
@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_lies_no_further_from_float64_than_without_more_keys(keys, masked):
    torch.manual_seed(keys)
    query, key, value = (2 * heads_of(3, length, 2, 20).bfloat16() for length in (261, keys, keys))
    mask = torch.where(torch.rand(3, 1, 1, keys) < 0.3, -torch.inf, 0.0).bfloat16() if masked else None
    if masked:
        mask[..., 0] = 0
    assert padded_keys.serves(query, key)
    exact = reference(query, key, value, mask)
    mine, plain = (PROCESSORS[name].attend(query, key, value, mask, 20**-0.5) for name in ("auto", "sdpa"))
    assert mine.dtype == torch.bfloat16 and (mine - exact).norm() <= 1.02 * (plain - exact).norm()
