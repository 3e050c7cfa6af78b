"""Every kernel against float64, its plain twin, and PyTorch's own checks of custom operators."""

import os

import pytest
import torch

pytest.importorskip("triton")

from unet_motion import kernels
from unet_motion.kernels import dispatch
from unet_motion.kernels.geglu import _triton_geglu, geglu, geglu_eager
from unet_motion.kernels.group_norm import _triton_group_norm, group_norm, group_norm_eager
from unet_motion.kernels.temporal_attention import (
    temporal_attention,
    temporal_attention_eager,
    temporal_attention_kernel,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def triton_kernels():
    with kernels.use("triton"):
        yield


def random(*shape, dtype=torch.float32, seed=0, strided=False):
    """Values with poison around them where strided: what a kernel reads too much shows."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    values = torch.randn(*shape, generator=generator).to(DEVICE, dtype)
    if not strided:
        return values
    poisoned = torch.full((*shape[:-1], shape[-1] + 7), float("nan"), device=DEVICE, dtype=dtype)
    poisoned[..., 3 : 3 + shape[-1]] = values
    return poisoned[..., 3 : 3 + shape[-1]]


def assert_as_exact_as(result, twin, exact):
    """No further from float64 than the plain twin is, but for a rounding of the result."""
    unit = torch.finfo(result.dtype).eps
    limit = 1.5 * (twin.double() - exact).abs().max() + 2 * unit * exact.abs().max()
    assert torch.isfinite(result).all()
    assert (result.double() - exact).abs().max() <= limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "n,heads,frames,dim", [(1, 1, 1, 8), (3, 2, 16, 40), (7, 1, 5, 13), (5, 2, 24, 80), (2, 1, 33, 16), (3, 1, 64, 160)]
)
def test_temporal_attention(n, heads, frames, dim, dtype):
    # As in a motion module: (F, P, heads * dim) read as (P, heads, F, dim), one of the three with a wider row.
    views = [
        random(frames, n, heads * dim, dtype=dtype, seed=i, strided=i == 1)
        .transpose(0, 1).unflatten(-1, (heads, dim)).transpose(1, 2)
        for i in range(3)
    ]  # fmt: skip
    out = temporal_attention(*views, 0.3)
    assert_as_exact_as(
        out, temporal_attention_eager(*views, 0.3), temporal_attention_eager(*(v.double() for v in views), 0.3)
    )
    assert out.permute(2, 0, 1, 3).is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n,rows,channels,groups", [(1, 1, 8, 4), (2, 63, 30, 3), (3, 130, 96, 32), (1, 257, 40, 1)])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(n, rows, channels, groups, silu, dtype):
    tokens = random(n, rows, channels, dtype=dtype) + 30 * random(1, 1, channels, dtype=dtype)
    weight, bias = random(channels, dtype=dtype, seed=1), random(channels, dtype=dtype, seed=2)
    out = group_norm(tokens, weight, bias, groups, 1e-6, silu)
    exact = group_norm_eager(tokens.double(), weight.double(), bias.double(), groups, 1e-6, silu)
    assert_as_exact_as(out, group_norm_eager(tokens, weight, bias, groups, 1e-6, silu), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 14), (2, 3, 2050), (0, 8)])
def test_geglu(shape, dtype):
    x = random(*shape, dtype=dtype, strided=True) if shape[0] else random(*shape, dtype=dtype)
    if shape[0]:
        assert_as_exact_as(geglu(x), geglu_eager(x), geglu_eager(x.double()))
    assert geglu(x).shape == (*shape[:-1], shape[-1] // 2)


def test_pytorch_accepts_the_operators():
    if os.environ.get("TRITON_INTERPRET") == "1":
        tests = ("test_schema", "test_faketensor")
    else:
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    views = [random(2, 1, 5, 8, seed=i) for i in range(3)]
    torch.library.opcheck(temporal_attention_kernel, (*views, 0.3), test_utils=tests)
    tokens, weight, bias = random(2, 9, 8), random(8, seed=1), random(8, seed=2)
    torch.library.opcheck(_triton_group_norm, (tokens, weight, bias, 4, 1e-6, True), test_utils=tests)
    torch.library.opcheck(_triton_geglu, (random(3, 8),), test_utils=tests)


def test_a_kernel_that_does_not_fit_says_why_once_and_the_twin_runs(caplog):
    caplog.set_level("INFO")
    views = [random(2, 1, 65, 8, seed=i) for i in range(3)]
    for _ in range(2):
        torch.testing.assert_close(temporal_attention(*views, 0.3), temporal_attention_eager(*views, 0.3))
    assert [r.message for r in caplog.records].count(
        "temporal_attention runs as plain PyTorch: 65 frames are more than 64"
    ) == 1
    x = random(2, 8).requires_grad_()
    geglu(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_the_mode_is_of_this_thread_and_checked(monkeypatch):
    assert kernels.current_mode() == "triton"
    with kernels.use("eager"):
        assert not dispatch.KERNELS["geglu"].runs(random(2, 8))
        assert kernels.report(DEVICE)["geglu"].startswith("eager: not asked for")
    assert kernels.report(DEVICE) == dict.fromkeys(("geglu", "group_norm", "temporal_attention"), "triton")
    with pytest.raises(ValueError, match="'fast' are unknown; expected one of eager, triton"):
        kernels.use("fast").__enter__()
    dispatch._mode.set(None)
    monkeypatch.setenv(dispatch.VARIABLE, "eager")
    assert kernels.current_mode() == "eager"


@torch.no_grad()
def test_a_whole_network_runs_on_the_kernels_and_sees_each_change_of_its_weights(monkeypatch):
    from unet_motion import UNetMotionModel
    from unet_motion.bench.nets import make_inputs, randomise

    unet = UNetMotionModel(block_out_channels=(32, 64, 64, 64), resnet_norm_scope="clip").eval()
    randomise(unet)
    unet.to(DEVICE)
    inputs = make_inputs(1, 3, 8, unet.config.cross_attention_dim, DEVICE, torch.float32)
    launched = []
    for name in ("geglu", "group_norm"):
        module = __import__(f"unet_motion.kernels.{name}", fromlist=["x"])
        plain = getattr(module, f"_triton_{name}")
        monkeypatch.setattr(module, f"_triton_{name}", lambda *a, f=plain, n=name: launched.append(n) or f(*a))
    unet.set_attn_processor("triton")

    def run():
        return unet(inputs.sample, inputs.timestep, inputs.text).sample

    def agree():
        with kernels.use("eager"):
            unet.set_attn_processor("math")
            expected = run()
            unet.set_attn_processor("triton")
        result = run()
        assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
        return result

    first = agree()
    assert {"geglu", "group_norm"} == set(launched)
    unet.mid_block.motion_modules[0].norm.weight.mul_(1.5)
    unet.down_blocks[0].resnets[0].norm1.bias.add_(0.3)
    second = agree()
    assert (second - first).abs().max() > 1e-3 * first.abs().max()
