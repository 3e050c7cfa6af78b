"""The norm over channels with what is added before and behind it, against its definition."""

import pytest
import torch

from unet_motion.ops.layer_norm import layer_norm


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_sum_and_norm_are_those_of_the_definition(rows, added, bias):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, shift, ahead = random(2, 3, 5, 8), random(8), random(8), random(8)
    residual, positions = random(2, 3, 5, 8), random(3, 8)
    whole = x + residual if added else x
    centred = whole - whole.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight
    normed = normed + (shift if bias else 0) + (positions[None, :, None] if rows else 0)
    given = (x, weight, shift if bias else None, 1e-3, positions if rows else None, residual if added else None)
    for total, out in (layer_norm(*given), layer_norm(*given, None)):
        torch.testing.assert_close(total, whole, rtol=0, atol=1e-13)
        torch.testing.assert_close(out, normed, rtol=0, atol=1e-13)
    if added:
        total, out = layer_norm(*given, ahead)
        torch.testing.assert_close(total, whole + ahead, rtol=0, atol=1e-13)
        torch.testing.assert_close(out, normed, rtol=0, atol=1e-13)
