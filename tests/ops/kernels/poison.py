"""Random input with poison around it, and the comparison with float64."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random(*shape, dtype=torch.float32, strided=False):
    """Values; where strided with NaN before and behind each row: what a kernel reads too much shows."""
    values = torch.randn(*shape).to(DEVICE, dtype)
    if not strided:
        return values
    poisoned = torch.full((*shape[:-1], shape[-1] + 7), float("nan"), device=DEVICE, dtype=dtype)
    poisoned[..., 3 : 3 + shape[-1]] = values
    return poisoned[..., 3 : 3 + shape[-1]]


def pictures(*shape, dtype=torch.float32, strided=False):
    """(N, C, H, W) in channels-last memory."""
    n, c, h, w = shape
    return random(n, h, w, c, dtype=dtype, strided=strided).permute(0, 3, 1, 2)


def far_apart(values, dim):
    """The same values with more than 2**31 entries between the first and the last of an axis; NaN beside them.

    The memory between is asked for and never touched, so that no machine has to hold it.
    """
    step = 2**31 // (values.shape[dim] - 1) + 1
    strides = list(values.contiguous().stride())
    strides[dim] = step
    memory = torch.empty(step * (values.shape[dim] - 1) + values.numel() + 64, dtype=values.dtype, device=DEVICE)
    for i in range(values.shape[dim]):
        memory[i * step : i * step + values.numel() + 64] = float("nan")
    return memory.as_strided(values.shape, strides, 16).copy_(values)


def assert_as_exact_as(result, twin, exact):
    """No further from float64 than the plain twin is, but for a rounding of the result."""
    unit = torch.finfo(result.dtype).eps
    limit = 1.5 * (twin.double() - exact).abs().max() + 2 * unit * exact.abs().max()
    assert result.shape == exact.shape and result.dtype == twin.dtype
    assert torch.isfinite(result).all()
    assert (result.double() - exact).abs().max() <= limit


def double(*arguments):
    """The arguments with their tensors in float64, bool ones as they are."""
    return [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
