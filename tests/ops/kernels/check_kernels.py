"""Every kernel against float64 and its plain twin: odd sizes, strides, poison, addresses beyond 32 bits."""

import pytest
import torch

pytest.importorskip("triton")

from poison import DEVICE, DTYPES, assert_as_exact_as, double, far_apart, pictures, random

from unet_motion import kernels
from unet_motion.ops.attention.processors import PROCESSORS
from unet_motion.ops.attention.temporal import temporal_attention, temporal_attention_eager, temporal_attention_kernel
from unet_motion.ops.conv import add_skip
from unet_motion.ops.dispatch import KERNELS
from unet_motion.ops.feed_forward import geglu, geglu_eager, geglu_kernel, geglu_product
from unet_motion.ops.float8 import rounded, rounded_eager, rounded_kernel
from unet_motion.ops.freeu import FreeU, freeu_concat, freeu_concat_eager
from unet_motion.ops.group_norm import group_norm, group_norm_eager, group_norm_kernel, scoped_group_norm
from unet_motion.ops.layer_norm import add_layer_norm_kernel, layer_norm, layer_norm_eager, layer_norm_kernel
from unet_motion.ops.residual import add_residual, residual_sum_eager, residual_sum_kernel


@pytest.fixture(autouse=True)
def triton_kernels():
    with kernels.use("triton"):
        yield


def qkv(n, heads, frames, dim, dtype=torch.float32):
    """As in a motion module: (F, P, heads * dim) read as (P, heads, F, dim), one of the three with a wider row."""
    return [
        random(frames, n, heads * dim, dtype=dtype, strided=i == 1)
        .transpose(0, 1).unflatten(-1, (heads, dim)).transpose(1, 2)
        for i in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "n,heads,frames,dim",
    [(1, 1, 1, 8), (65, 1, 1, 9), (3, 2, 16, 40), (7, 1, 5, 13), (5, 2, 24, 80), (2, 1, 33, 16), (3, 1, 64, 160)],
)
def test_temporal_attention(n, heads, frames, dim, dtype):
    views = qkv(n, heads, frames, dim, dtype)
    out = temporal_attention(*views, 0.3)
    exact = temporal_attention_eager(*double(*views), 0.3)
    assert_as_exact_as(out, temporal_attention_eager(*views, 0.3), exact)
    assert out.permute(2, 0, 1, 3).is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clips,n,heads,frames,dim", [(2, 3, 2, 16, 40), (3, 7, 1, 5, 13), (2, 1, 2, 33, 24)])
def test_temporal_attention_of_several_clips(clips, n, heads, frames, dim, dtype):
    """One launch for all of them, and the pixels of a clip end within a tile."""
    tokens = [random(clips, frames, n, heads * dim, dtype=dtype, strided=i == 1) for i in range(3)]
    views = [t.unflatten(-1, (heads, dim)).permute(0, 2, 3, 1, 4) for t in tokens]
    mask = random(clips, 1, heads, 1, frames, dtype=dtype)
    for more in ((), (mask,)):
        out = temporal_attention(*views, 0.3, *more)
        exact = temporal_attention_eager(*double(*views), 0.3, *double(*more))
        assert_as_exact_as(out, temporal_attention_eager(*views, 0.3, *more), exact)
        assert out.permute(0, 3, 1, 2, 4).is_contiguous()
    found, expected = (
        PROCESSORS[name].attend_frames(*(t.unflatten(-1, (heads, dim)) for t in tokens), 0.3)
        for name in ("triton", "math")
    )
    assert found.is_contiguous()
    exact = temporal_attention_eager(*double(*views), 0.3).permute(0, 3, 1, 2, 4)
    assert_as_exact_as(found, expected, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 2, 7, 7), (1, 2, 7, 7), (5, 1, 1, 7), (1, 1, 7, 1)])
def test_temporal_attention_with_a_mask(shape, dtype):
    views = qkv(5, 2, 7, 16, dtype)
    mask = random(*shape, dtype=dtype, strided=True)
    mask[torch.rand(shape, device=DEVICE) < 0.3] = float("-inf")
    # A frame may always look at itself: softmax over nothing is no number in the twin either.
    mask = mask.masked_fill(torch.isinf(mask) & (torch.eye(7, device=DEVICE) > 0), 0) if shape[2] == 7 else mask
    mask[..., :1] = 0.25
    out = temporal_attention(*views, 0.7, mask)
    twin, exact = temporal_attention_eager(*views, 0.7, mask), temporal_attention_eager(*double(*views), 0.7, mask)
    assert_as_exact_as(out, twin, exact)
    assert (out - temporal_attention(*views, 0.7)).abs().max() > 0.01


def test_temporal_attention_reads_far_apart_entries():
    views = [random(2, 2, 3, 16, dtype=torch.float16) for _ in range(3)]
    exact = temporal_attention_eager(*double(*views), 1.0)
    for dim in (0, 1, 2):
        far = [far_apart(view, dim) if i == dim else view for i, view in enumerate(views)]
        assert_as_exact_as(temporal_attention_kernel(*far, 1.0), temporal_attention_eager(*views, 1.0), exact)
    row = views[0].new_zeros(1, 1, 1, 1).expand(2, 2, 3, 3)
    assert torch.equal(temporal_attention(*views, 1.0, row), temporal_attention(*views, 1.0))


@pytest.fixture(params=["one launch", "three"])
def way(request, monkeypatch):
    """Whether a program may hold a whole group."""
    if request.param == "three":
        monkeypatch.setattr("unet_motion.ops.group_norm.triton.HELD", 0)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n,rows,channels,groups", [(1, 1, 8, 4), (2, 63, 30, 3), (2, 130, 70, 5), (1, 257, 40, 1)])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(n, rows, channels, groups, silu, dtype, way):
    # The mean is far from 0: a variance as the difference of squares would be lost.
    tokens = random(n, rows, channels, dtype=dtype, strided=silu).add_(30 * random(1, 1, channels, dtype=dtype))
    arguments = tokens, random(channels, dtype=dtype), random(channels, dtype=dtype), groups, 1e-6, silu
    out = group_norm(*arguments)
    assert_as_exact_as(out, group_norm_eager(*arguments), group_norm_eager(*double(*arguments)))
    assert out.is_contiguous()


def test_group_norm_of_more_pieces_than_are_combined_at_once(monkeypatch):
    monkeypatch.setattr("unet_motion.ops.group_norm.triton.ENTRIES", 64)
    monkeypatch.setattr("unet_motion.ops.group_norm.triton.HELD", 0)
    arguments = random(1, 64 * 70 + 1, 4) + 5, random(4), None, 2, 1e-6, False
    assert_as_exact_as(group_norm(*arguments), group_norm_eager(*arguments), group_norm_eager(*double(*arguments)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("each", [1, 3])
def test_group_norm_behind_a_vector_of_each_clip(each, dtype, way):
    tokens, added = random(2 * each, 67, 15, dtype=dtype, strided=True), random(2, 15, dtype=dtype, strided=True)
    arguments = tokens, random(15, dtype=dtype), random(15, dtype=dtype), 5, 1e-6, True, added.mul_(20)
    assert_as_exact_as(group_norm(*arguments), group_norm_eager(*arguments), group_norm_eager(*double(*arguments)))


@pytest.mark.parametrize("dim", [0, 1])
def test_group_norm_reads_far_apart_entries(dim, way):
    tokens, weight, bias = random(3, 5, 8, dtype=torch.float16), random(8), random(8)
    result = group_norm_kernel(far_apart(tokens, dim), weight, bias, 4, 1e-6, True)
    exact = group_norm_eager(*double(tokens, weight, bias), 4, 1e-6, True)
    assert_as_exact_as(result, group_norm_eager(tokens, weight.half(), bias.half(), 4, 1e-6, True), exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_of_every_size(dtype):
    """From where its tail is below all numbers to where it is 1, and no number stays none."""
    gate = torch.cat([torch.linspace(-14, 14, 20001), 10 ** torch.linspace(-8, 4.8, 501)]).to(DEVICE, dtype)
    x = torch.stack([torch.ones_like(gate), gate], dim=1)
    exact = geglu_eager(x.double())
    error = (geglu(x).double() - exact).abs().flatten()
    limit = torch.finfo(dtype)
    # A rounding of the result, and what is lost of 1 - tail in float32 or by the tail's own error.
    assert (error <= exact.abs().flatten() * (limit.eps + 1e-5) + 2e-7 + limit.tiny).all()
    odd = torch.tensor([[1.0, float("inf")], [1.0, float("nan")]], dtype=dtype, device=DEVICE)
    assert geglu(odd)[0].isinf().all() and geglu(odd)[1].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 14), (2, 3, 2050), (0, 8)])
def test_geglu(shape, dtype):
    x = random(*shape, dtype=dtype, strided=True)
    if shape[0]:
        assert_as_exact_as(geglu(x), geglu_eager(x), geglu_eager(x.double()))
    assert geglu(x).shape == (*shape[:-1], shape[-1] // 2)


def codes(x):
    return x.view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_float8_of_every_number_half_way_and_beside_it(dtype):
    """Bit for bit what torch's cast gives of all 256 numbers, what lies between two of them, and next to either."""
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    found = torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2, torch.tensor([460.0, 1e4, 1e-7, float("inf")])])
    found = torch.cat([found * (1 + i * torch.finfo(dtype).eps) for i in (-1, 0, 1)]).to(DEVICE, dtype)
    found = torch.cat([found, -found])[None]
    assert KERNELS["float8"].takes(found)
    assert codes(rounded(found)) == codes(rounded_eager(found))
    assert rounded(torch.full((2, 3), float("nan"), device=DEVICE, dtype=dtype)).float().isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 7), (2, 300), (9, 1), (5, 513), (0, 8)])
def test_float8(shape, dtype):
    for strided in (False, True):
        x = random(*shape, dtype=dtype, strided=strided) * 20
        x = x if not strided else random(*shape, dtype=dtype, strided=True)
        assert rounded(x).shape == x.shape and codes(rounded(x)) == codes(rounded_eager(x))


def test_float8_reads_far_apart_entries():
    x = random(3, 8, dtype=torch.float16)
    assert codes(rounded_kernel(far_apart(x, 0))) == codes(rounded_kernel(x))


def test_geglu_reads_far_apart_entries():
    x = random(17, 10, dtype=torch.float16)
    assert torch.equal(geglu_kernel(far_apart(x, 0)), geglu_kernel(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clips,frames,pixels,channels", [(1, 1, 1, 8), (2, 3, 7, 30), (1, 5, 1, 1030), (2, 2, 65, 1)])
@pytest.mark.parametrize("added", [False, True])
def test_layer_norm(clips, frames, pixels, channels, added, dtype):
    shape = clips, frames, pixels, channels
    # A mean far from the deviation, as in deep residual streams.
    x = random(*shape, dtype=dtype, strided=added) + 20
    residual = random(*shape, dtype=dtype, strided=True) if added else None
    rows = random(frames, channels, dtype=dtype, strided=True) if pixels > 1 else None
    bias = random(channels, dtype=dtype) if channels != 30 else None
    arguments = x, random(channels, dtype=dtype), bias, 1e-5, rows, residual
    total, out = layer_norm(*arguments)
    twin_total, twin = layer_norm_eager(*arguments)
    exact_total, _ = layer_norm_eager(*double(*arguments))
    # The norm of the rounded sum, which is what goes on as the residual stream.
    _, exact = layer_norm_eager(*double(total, *arguments[1:5]))
    assert_as_exact_as(total, twin_total, exact_total)
    assert_as_exact_as(out, twin, exact)
    assert total is x if residual is None else total.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [30, 2100])
def test_layer_norm_with_a_bias_that_goes_ahead(channels, dtype):
    """It is in the sum and not in the norm."""
    x, residual = (random(1, 2, 3, channels, dtype=dtype, strided=True) for _ in range(2))
    weight, ahead = random(channels, dtype=dtype), random(channels, dtype=dtype) * 9
    total, out = layer_norm(x, weight, None, 1e-5, None, residual, ahead)
    plain, normed = layer_norm(x, weight, None, 1e-5, None, residual)
    assert torch.equal(out, normed)
    assert_as_exact_as(total, plain + ahead, x.double() + residual.double() + ahead.double())
    twin_total, twin = layer_norm_eager(x, weight, None, 1e-5, None, residual, ahead)
    assert torch.equal(twin_total, x + residual + ahead)
    assert_as_exact_as(out, twin, layer_norm_eager(plain.double(), weight.double(), None, 1e-5)[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 70, 3, 5), (1, 300, 2, 7), (0, 8, 2, 2)], ids=str)
def test_residual_sum(shape, dtype):
    hidden, skip = pictures(*shape, dtype=dtype), pictures(*shape, dtype=dtype, strided=True)
    bias = random(shape[1], dtype=dtype)
    assert KERNELS["residual_sum"].takes(hidden, skip, bias)
    out = add_residual(hidden, skip, bias, inplace=False)
    assert out.permute(0, 2, 3, 1).is_contiguous()
    if shape[0]:
        assert_as_exact_as(out, residual_sum_eager(hidden, skip, bias), residual_sum_eager(*double(hidden, skip, bias)))
    # What lies in another order runs as plain code.
    lone = hidden.contiguous()
    assert torch.equal(add_residual(lone.clone(), skip, bias, inplace=True), residual_sum_eager(lone, skip, bias))
    assert torch.equal(add_skip(hidden, None, skip, inplace=False), hidden + skip)


def test_residual_sum_reads_far_apart_entries():
    hidden, skip, bias = (random(*shape, dtype=torch.float16) for shape in ((6, 8), (6, 8), (8,)))
    near = [t.view(1, 2, 3, 8).permute(0, 3, 1, 2) for t in (hidden, skip)]
    for i in range(2):
        rows = far_apart((hidden, skip)[i], 0).unflatten(0, (1, 2, 3)).permute(0, 3, 1, 2)
        far = [rows if i == j else near[j] for j in range(2)]
        assert torch.equal(residual_sum_kernel(*far, bias), residual_sum_kernel(*near, bias))


def test_layer_norm_reads_far_apart_entries():
    x, y, weight = random(1, 5, 16, dtype=torch.float16), random(1, 5, 16, dtype=torch.float16), random(16)
    assert torch.equal(layer_norm_kernel(far_apart(x, 1), weight, None, None, 1e-5),
                       layer_norm_kernel(x, weight, None, None, 1e-5))  # fmt: skip
    rows = random(3, 16, dtype=torch.float16)
    for near, far in zip(
        add_layer_norm_kernel(x.view(1, 5, 1, 16)[:, :3], y.view(1, 5, 1, 16)[:, :3], weight, None, rows, 1e-5),
        add_layer_norm_kernel(
            x.view(1, 5, 1, 16)[:, :3], far_apart(y.view(1, 5, 1, 16)[:, :3], 1), weight, None, far_apart(rows, 0), 1e-5
        ),
        strict=True,
    ):
        assert torch.equal(near, far)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (2, 2), (3, 3), (9, 11)], ids=str)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_freeu(version, size, dtype):
    hidden = pictures(2, 70, *size, dtype=dtype, strided=True)
    skip = pictures(2, 35, *size, dtype=dtype, strided=True) + 2
    freeu = FreeU(0.9, 0.2, 1.5, 1.6, version)
    arguments = hidden, skip, freeu.b2, freeu.s2, version == "v2", None
    result = freeu_concat(hidden, skip, freeu, 1)
    assert_as_exact_as(result, freeu_concat_eager(*arguments), freeu_concat_eager(*double(*arguments)))
    assert result.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("hidden,skip,s,b", [(1, 1, 0.0, 0.0), (3, 64, 1.0, 1.5), (65, 1, -0.5, 1.0)])
def test_freeu_at_its_edges(hidden, skip, s, b):
    arguments = pictures(1, hidden, 4, 5), pictures(1, skip, 4, 5), FreeU(s, 1, b, 1, "v2"), 0
    exact = freeu_concat_eager(*double(*arguments[:2]), b, s, True, None)
    assert_as_exact_as(freeu_concat(*arguments), freeu_concat_eager(*arguments[:2], b, s, True, None), exact)


def test_freeu_leaves_a_constant_map_alone_and_heeds_its_switch():
    hidden, skip = pictures(1, 1, 3, 3).mean().expand(2, 6, 3, 3), pictures(2, 5, 3, 3)
    hidden = hidden.contiguous(memory_format=torch.channels_last)
    flat = freeu_concat(hidden, skip, FreeU(1, 1, 1.5, 1, "v2"), 0)
    torch.testing.assert_close(flat, torch.cat([hidden, skip], dim=1), rtol=0, atol=0)
    for on in (False, True):
        freeu = FreeU(0.3, 1, 1.5, 1, "v1", torch.tensor(on, device=DEVICE))
        changed = not torch.equal(freeu_concat(hidden, skip, freeu, 0), torch.cat([hidden, skip], dim=1))
        assert changed == on


def test_freeu_reads_far_apart_entries():
    hidden, skip = pictures(3, 6, 2, 3, dtype=torch.float16), pictures(3, 5, 2, 3, dtype=torch.float16)
    freeu = FreeU(0.3, 1, 1.5, 1, "v2")
    near = freeu_concat(hidden, skip, freeu, 0)
    # Pictures and pixels share one distance: pixels so far apart that the last picture lies beyond 32 bits.
    far = [far_apart(x.permute(0, 2, 3, 1).flatten(0, 2), 0).unflatten(0, (3, 2, 3)) for x in (hidden, skip)]
    far = [x.permute(0, 3, 1, 2) for x in far]
    assert torch.equal(freeu_concat(*far, freeu, 0), near)


EMPTY = {
    "group norm": lambda: scoped_group_norm(torch.nn.GroupNorm(2, 8, device=DEVICE), pictures(0, 8, 3, 5), 2, "frame"),
    "group norm over a clip": lambda: scoped_group_norm(
        torch.nn.GroupNorm(2, 8, device=DEVICE), pictures(0, 8, 3, 5), 2, "clip"
    ),
    "layer norm": lambda: layer_norm(random(0, 3, 8), random(8), random(8), 1e-5)[1],
    "geglu": lambda: geglu(random(0, 3, 16)),
    "geglu_product": lambda: geglu_product(random(0, 3, 16), random(8, 16), None),
    "temporal attention": lambda: temporal_attention(*(random(0, 2, 3, 8) for _ in range(3)), 0.3),
    "float8": lambda: rounded(random(0, 3, 16)),
    "residual sum": lambda: add_residual(pictures(0, 8, 3, 5), pictures(0, 8, 3, 5), random(8), False),
    "freeu": lambda: freeu_concat(pictures(0, 8, 4, 4), pictures(0, 8, 4, 4), FreeU(0.9, 0.2, 1.5, 1.6), 0),
}


@pytest.mark.parametrize("name", EMPTY)
@torch.no_grad()
def test_of_nothing_comes_nothing_in_the_same_shape(name):
    with kernels.use("eager"):
        expected = EMPTY[name]()
    found = EMPTY[name]()
    assert found.shape == expected.shape and found.numel() == 0 and found.dtype == expected.dtype
