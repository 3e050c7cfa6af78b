"""A product that is added to the residual stream: its sum, and which layers it is for."""

import pytest
import torch
from torch import nn

from unet_motion.ops import layer
from unet_motion.ops.linear import onto


@pytest.mark.parametrize("transposed", [False, True])
def test_the_product_is_added_to_the_stream(transposed):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(5, 3, dtype=torch.float64).requires_grad_(False)
    stream = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    stream = stream.transpose(0, 1) if transposed else stream
    x = torch.randn(*stream.shape[:2], 5, generator=generator, dtype=torch.float64)
    expected = stream + torch.einsum("abd,cd->abc", x, linear.weight)
    out = onto.add_product(stream, x, linear)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
    assert transposed or out.data_ptr() == stream.data_ptr(), "written where the stream lies"


def test_the_bias_goes_ahead_where_kernels_are_asked_for_and_nobody_looks_between(monkeypatch):
    first, last, bare = nn.Linear(3, 5), nn.Linear(5, 3), nn.Linear(5, 3, bias=False)
    tokens = torch.zeros(2, 3)

    def ahead(first=first, last=last):
        with torch.no_grad():
            return onto.bias_ahead(first, last, tokens)

    assert ahead() is None, "a CPU has no such kernel"
    monkeypatch.setattr(layer, "on_card", lambda device: True)
    assert ahead() is None, "no kernels are asked for"
    monkeypatch.setattr(onto, "wanted", lambda *_: True)
    assert ahead() is last.bias and ahead(last=bare) is None
    for watched in (first, last):
        hook = watched.register_forward_hook(lambda *_: None)
        assert ahead() is None
        hook.remove()
    assert ahead(first=nn.Conv1d(3, 5, 1)) is None and ahead() is last.bias
