"""Group norm of narrow groups on a CPU: the same as torch's, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unet_motion.ops import group_norm as group_norms
from unet_motion.ops.group_norm import cpu as narrow_groups
from unet_motion.ops.group_norm import scoped_group_norm

SIZES = [(3, 64, 5, 7), (2, 96, 16, 16), (4, 48, 33, 31), (1, 160, 1, 1), (2, 120, 9, 1), (6, 384, 16, 16)]
WIDTHS = {64: 2, 96: 6, 48: 4, 160: 10, 120: 12, 384: 12}


def norm_of(channels: int, groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def pictures(n: int, c: int, h: int, w: int) -> torch.Tensor:
    return (torch.randn(n, c, h, w) * torch.rand(c, 1, 1) + 0.5).contiguous(memory_format=torch.channels_last)


def exact(norm: nn.GroupNorm, x: torch.Tensor, clips: int) -> torch.Tensor:
    """In float64, by torch, over all frames of each clip; x is changed into float64 with its gradient kept."""
    n, c, h, w = x.shape
    clip = x.unflatten(0, (clips, -1)).transpose(1, 2)
    out = F.group_norm(clip, norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps)
    return out.transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scope", ["frame", "clip"])
def test_values_and_gradients_are_those_of_float64(size, scope):
    torch.manual_seed(1)
    norm = norm_of(size[1], size[1] // WIDTHS[size[1]])
    x = pictures(*size)
    assert narrow_groups.serves(norm, x, 1)
    wide = x.double().requires_grad_()
    x.requires_grad_()
    clips = size[0] if scope == "frame" else 1
    out = scoped_group_norm(norm, x, size[0] // clips, scope)
    expected = exact(norm, wide, clips)
    gradient = torch.randn_like(out)
    found = torch.autograd.grad(out, (x, norm.weight, norm.bias), gradient)
    wanted = torch.autograd.grad(expected, (wide, norm.weight, norm.bias), gradient.double())
    assert out.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip((out, *found), (expected, *wanted), strict=True):
        assert (a - b).norm() <= 5e-6 * b.norm()


@pytest.mark.parametrize("size", SIZES[:4], ids=str)
def test_frozen_or_not_the_bits_are_equal(size):
    torch.manual_seed(2)
    norm, x = norm_of(size[1], size[1] // WIDTHS[size[1]]), pictures(*size)
    with torch.no_grad():
        alone = scoped_group_norm(norm, x, 1, "frame")
    trained = scoped_group_norm(norm, x.clone(memory_format=torch.preserve_format), 1, "frame")
    norm.requires_grad_(False)
    through = scoped_group_norm(norm, x.requires_grad_(), 1, "frame")
    assert torch.equal(alone, trained) and torch.equal(alone, through)
    assert trained.requires_grad and through.requires_grad and not alone.requires_grad


def test_only_the_weights_want_a_gradient():
    """Where torch's own backward pass of channels-last memory may read a null pointer."""
    torch.manual_seed(3)
    norm, x = norm_of(64, 32), pictures(2, 64, 8, 8)
    scoped_group_norm(norm, x, 1, "frame").square().sum().backward()
    expected = norm_of(64, 32).double()
    expected.load_state_dict(norm.state_dict())
    expected(x.double().contiguous()).square().sum().backward()
    assert (norm.weight.grad - expected.weight.grad).norm() <= 1e-6 * expected.weight.grad.norm()


@pytest.mark.parametrize("pixels", [5, 1100])
def test_second_derivatives(pixels):
    torch.manual_seed(4)
    x, weight, bias = torch.randn(2, pixels, 8), torch.randn(8), torch.randn(8)

    def second(norm, dtype):
        inputs = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        first = torch.autograd.grad(norm(*inputs).pow(3).sum(), inputs[0], create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), inputs[:2])

    found = second(lambda x, w, b: narrow_groups.group_norm(x, w, b, 4, 1e-5), torch.float32)
    wanted = second(lambda x, w, b: F.group_norm(x.transpose(1, 2), 4, w, b, 1e-5).transpose(1, 2), torch.float64)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_a_hosts_weights_are_taken_and_with_gradients_its_own_layer():
    norm, x, used = norm_of(64, 32), pictures(2, 64, 8, 8), []

    def patched(layer, given):
        used.append(layer)
        return 2 * layer.weight, layer.bias

    norm.read_weights = patched
    with torch.no_grad():
        found = scoped_group_norm(norm, x, 1, "frame")
        expected = F.group_norm(x.double(), 32, 2 * norm.weight.double(), norm.bias.double(), norm.eps)
    assert used and (found - expected).norm() <= 5e-6 * expected.norm()
    used.clear()
    scoped_group_norm(norm, x.requires_grad_(), 1, "frame").sum().backward()
    assert not used and x.grad is not None


def test_who_is_served():
    x = pictures(2, 64, 8, 8)
    assert narrow_groups.serves(norm_of(64, 32), x, 64)
    assert not narrow_groups.serves(norm_of(64, 8), x, 64), "eight channels fill a vector"
    assert not narrow_groups.serves(norm_of(64, 4), x, 64), "sixteen channels are not narrow"
    assert not narrow_groups.serves(norm_of(64, 32), x.contiguous(), 64)
    assert not narrow_groups.serves(norm_of(64, 32), x.double(), 64)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        hooked = norm_of(64, 32)
        getattr(hooked, register)(lambda *args: None)
        assert not narrow_groups.serves(hooked, x, 64), register
    with torch.autocast("cpu", torch.bfloat16):
        assert not narrow_groups.serves(norm_of(64, 32), x, 64)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scope", ["frame", "clip"])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_rows_that_are_added_before_reach_their_own_frames(rows, scope, fused, monkeypatch):
    """One for all frames, each clip or each frame; fused, a norm over clips gets no row for each frame."""
    monkeypatch.setattr(group_norms, "wanted", lambda *_: fused)
    torch.manual_seed(2)
    norm, x, added = norm_of(24, 4), pictures(6, 24, 3, 5), 3 * torch.randn(rows, 24)
    whole = x.double() + added.double().repeat_interleave(6 // rows, 0)[:, :, None, None]
    expected = F.silu(exact(norm, whole, 6 if scope == "frame" else 2))
    found = scoped_group_norm(norm, x, 3, scope, F.silu, added)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    if 6 % rows == 0 and (scope == "frame" or 2 % rows == 0):
        tokens = x.permute(0, 2, 3, 1).reshape(6 if scope == "frame" else 2, -1, 24)
        out = group_norms.group_norm_eager(tokens, norm.weight, norm.bias, 4, norm.eps, True, added)
        out = out.reshape(6, 3, 5, 24).permute(0, 3, 1, 2)
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [group_norms.group_norm, group_norms.group_norm_eager])
def test_silu_comes_only_where_it_is_asked_for(function):
    norm, tokens = norm_of(12, 4), torch.randn(3, 7, 12)
    plain = F.group_norm(tokens.double().transpose(1, 2), 4, norm.weight.double(), norm.bias.double(), 1e-5)
    plain = plain.transpose(1, 2)
    for asked, expected in (({}, plain), ({"silu": False}, plain), ({"silu": True}, plain * plain.sigmoid())):
        out = function(tokens, norm.weight, norm.bias, 4, 1e-5, **asked)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


BFLOAT16_SIZES = [(3, 64, 5, 7, 2), (2, 96, 16, 16, 6), (1, 160, 1, 1, 10), (2, 120, 9, 1, 30), (3, 40, 31, 31, 20)]


def distances(norm, x, frames, scope, slope):
    """How far from float64, relative, the result and the gradients for x, weight and bias lie."""
    x = x.detach().requires_grad_()
    wide = x.detach().double().requires_grad_()
    expected = exact(norm, wide, len(x) // frames if scope == "clip" else len(x))
    out = scoped_group_norm(norm, x, frames, scope)
    assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=torch.channels_last)
    found = out, *torch.autograd.grad(out, (x, norm.weight, norm.bias), slope)
    wanted = expected, *torch.autograd.grad(expected, (wide, norm.weight, norm.bias), slope.double())
    return [((a - b).norm() / b.norm().clamp_min(1e-9)).item() for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("size", BFLOAT16_SIZES, ids=str)
@pytest.mark.parametrize("scope", ["frame", "clip"])
def test_bfloat16_lies_no_further_from_float64_than_torchs(size, scope, monkeypatch):
    torch.manual_seed(5)
    *shape, width = size
    norm, x = norm_of(shape[1], shape[1] // width).bfloat16(), pictures(*shape).bfloat16() + 3
    slope = torch.randn_like(x)
    many = scope == "clip" and shape[0] * shape[2] * shape[3] >= narrow_groups.MANY_PIXELS
    assert narrow_groups.serves(norm, x, shape[2] * shape[3])
    mine = distances(norm, x, shape[0], scope, slope)
    with torch.no_grad():
        alone = scoped_group_norm(norm, x, shape[0], scope)
    with_gradient = scoped_group_norm(norm, x, shape[0], scope).detach()
    # Means are summed in another order, which a number in a thousand feels, by one rounding.
    assert (alone != with_gradient).float().mean() < 0.01
    torch.testing.assert_close(alone, with_gradient, rtol=2**-7, atol=2**-10)
    monkeypatch.setattr(narrow_groups, "serves", lambda *_: False)
    plain = distances(norm, x, shape[0], scope, slope)
    for ours, torchs in zip(mine, plain, strict=True):
        assert ours == torchs if many else ours <= 1.02 * torchs + 1e-6


def test_who_is_served_in_bfloat16():
    x = pictures(2, 64, 8, 8).bfloat16()
    assert narrow_groups.serves(norm_of(64, 8).bfloat16(), x, 64), "eight channels are half a vector"
    assert not narrow_groups.serves(norm_of(64, 4).bfloat16(), x, 64), "sixteen channels fill a vector"
    assert not narrow_groups.serves(norm_of(64, 2).bfloat16(), x, 64)
    assert not narrow_groups.serves(norm_of(64, 32).bfloat16(), x, 1024), "torch adds up whole rows"
    assert not narrow_groups.serves(norm_of(64, 32).half(), x.half(), 64)
