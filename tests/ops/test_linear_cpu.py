"""A linear layer as a convolution in bfloat16, against float64 and torch's own product."""

import pytest
import torch
from torch import nn

from unet_motion.ops.linear import cpu


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(cpu, "BFLOAT16", True)


def case(rows=1024, width=24, out=40):
    torch.manual_seed(rows)
    return nn.Linear(width, out).bfloat16(), torch.randn(rows, width).bfloat16()


@pytest.mark.parametrize("shape", [(1024, 24), (3, 5, 71, 37), (1, 1025, 8)])
def test_it_lies_no_further_from_float64_than_torchs_product(shape):
    torch.manual_seed(1)
    layer, x = nn.Linear(shape[-1], 45).bfloat16(), torch.randn(shape).bfloat16()
    exact = x.double() @ layer.weight.double().t() + layer.bias.double()
    with torch.no_grad():
        assert cpu.serves(layer, x)
        found, plain = cpu.linear(layer, x), layer(x)
    assert found.shape == plain.shape and found.is_contiguous() and found.dtype == torch.bfloat16
    assert (found - exact).norm() <= 1.02 * (plain - exact).norm()


@torch.no_grad()
def test_it_is_taken_where_it_is_faster_and_right(monkeypatch):
    layer, x = case()
    assert cpu.serves(layer, x)
    assert not cpu.serves(layer, x[:-1]), "few rows"
    assert not cpu.serves(layer, x.view(24, 1024).t()), "strided"
    assert not cpu.serves(layer.float(), x), "under autocast"
    assert not cpu.serves(layer, x.float())
    layer.bfloat16()
    assert not cpu.serves(nn.Linear(24, 40, bias=False).bfloat16(), x)
    assert not cpu.serves(type("Quantised", (nn.Linear,), {})(24, 40).bfloat16(), x)
    with torch.enable_grad():
        assert not cpu.serves(layer, x)
    monkeypatch.setattr(cpu, "MOST_WEIGHTS", 24 * 40 - 1)
    assert not cpu.serves(layer, x)
    monkeypatch.setattr(cpu, "MOST_WEIGHTS", 24 * 40)
    monkeypatch.setattr(cpu, "BFLOAT16", False)
    assert not cpu.serves(layer, x)


@torch.no_grad()
def test_hooks_and_hosts_take_the_layer():
    layer, x = case()
    plain = cpu.linear(layer, x)
    hook = layer.register_forward_hook(lambda module, args, out: out + 1)
    assert torch.equal(cpu.linear(layer, x), layer(x)) and not torch.equal(layer(x), plain)
    hook.remove()
    layer.forward = lambda x: 3 * plain
    assert torch.equal(cpu.linear(layer, x), 3 * plain)
    del layer.forward
    layer.read_weights = lambda module, x: (2 * module.weight, module.bias)
    assert not cpu.serves(layer, x)
