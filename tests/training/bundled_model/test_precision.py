import pytest
import torch

from unet_motion.training.bundled_model.precision import autocast, has_fast_bfloat16


@pytest.mark.parametrize(
    ("capability", "fast"), [("DEFAULT", False), ("AVX2", False), ("AVX512", True), ("AVX512_BF16", True)]
)
def test_half_precision_is_left_to_processors_that_have_it(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert has_fast_bfloat16() is fast
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    with autocast():
        product = torch.nn.functional.linear(x, weight)
    assert product.dtype == (torch.bfloat16 if fast else torch.float32)
    assert torch.allclose(product.double(), x.double() @ weight.double().T, atol=0.1 if fast else 1e-5)
