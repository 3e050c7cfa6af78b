"""GEGLU inside the product against float64, beside what it must not touch, and where it takes the layers' place."""

import json
from random import randint
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from poison import DEVICE, DTYPES, assert_as_exact_as, double, far_apart, random

from unet_motion import kernels
from unet_motion.forward.lora import LowRank
from unet_motion.model.layer_factory import make_factory
from unet_motion.model.transformer import FeedForward
from unet_motion.ops import dispatch, feed_forward, tuning
from unet_motion.ops.dispatch import KERNELS, interpreted
from unet_motion.ops.feed_forward import geglu_layer, geglu_product, geglu_product_eager, geglu_product_kernel
from unet_motion.ops.feed_forward.product import sizes_of
from unet_motion.ops.feed_forward.product.triton import precision
from unet_motion.ops.linear import float8

TILES = {"ROWS": 16, "BLOCK": 16, "DEPTH": 32, "GROUP": 2, "num_stages": 3}
"""So small that a few rows are several groups of tiles."""

SIZES = [(1, 1, 1), (64, 32, 32), (randint(65, 140), randint(3, 90), randint(33, 70))]
"""Rows, depth and width; the edges of the last one lie inside of tiles, and change with each run."""


@pytest.fixture(autouse=True)
def triton_kernels():
    with kernels.use("triton"):
        yield


def operands(rows, depth, width, dtype=torch.float32, bias=True, strided=True):
    """Input, weights of about 1 / depth, and a bias that is seen; NaN beside each row."""
    x, weight = random(rows, depth, dtype=dtype, strided=strided), random(2 * width, depth, dtype=dtype, strided=True)
    weight.mul_(depth**-0.5)
    return x, weight, random(2 * width, dtype=dtype) if bias else None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes,use", [*((s, {}) for s in SIZES), (SIZES[-1], TILES), ((20, 48, 17), TILES)], ids=str)
def test_geglu_product(sizes, use, dtype):
    for bias in (True, False):
        given = operands(*sizes, dtype, bias)
        with tuning.choosing("geglu_product", **use):
            out = geglu_product(*given)
        # torch's own product in bfloat16 lets NaN beside the rows in.
        twin = geglu_product_eager(*(t if t is None else t.contiguous() for t in given))
        exact = geglu_product_eager(*double(*given))
        assert_as_exact_as(out, twin, exact)
        # One rounding in the place of four; but the interpreter cuts bfloat16 off.
        if exact.numel() > 1000 and (dtype == torch.float16 or (dtype == torch.bfloat16 and not interpreted())):
            errors = [(found.double() - exact).square().mean() for found in (out, twin)]
            assert errors[0] < 0.7 * errors[1], "mean squares"


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (2, 3, 5), (5,)], ids=str)
def test_shapes_of_the_input(shape):
    weight, bias = random(6, 5), random(6)
    x = random(*shape)
    out = geglu_product_kernel(x, weight, bias)
    assert out.shape == (*shape[:-1], 3)
    torch.testing.assert_close(out, geglu_product_eager(x, weight, bias), rtol=1e-5, atol=1e-6)
    turned = random(5, 4, 7).transpose(0, 1)[:, :1]  # rows further from each other than from those of other clips
    torch.testing.assert_close(
        geglu_product_kernel(turned, random(6, 7).mul_(0).add_(1), None),
        geglu_product_eager(turned, torch.ones(6, 7, device=DEVICE), None), rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_of_every_size(dtype):
    """With 1 as the value and the input as the gate; float32 has the exact gelu's last digits, as erf gives them."""
    x = torch.linspace(-14, 14, 1401).to(DEVICE, dtype)[:, None]
    weight, bias = torch.tensor([[0.0], [1.0]]).to(x), torch.tensor([1.0, 0.0]).to(x)
    exact = geglu_product_eager(*double(x, weight, bias))
    error, unit = (geglu_product(x, weight, bias).double() - exact).abs(), torch.finfo(dtype).eps
    if dtype == torch.float32:
        assert (error <= 2 * unit * (exact.abs() + x.abs())).all()
    else:
        assert (error <= exact.abs() * (unit + 1e-5) + 2e-7 + torch.finfo(dtype).tiny).all()


def test_far_apart_rows_of_input_and_weights():
    x, weight, bias = operands(5, 8, 3, torch.float16)
    near = geglu_product_kernel(x, weight, bias)
    assert torch.equal(geglu_product_kernel(far_apart(x, 0), weight, bias), near)
    assert torch.equal(geglu_product_kernel(x, far_apart(weight, 0), bias), near)


def test_nothing_beside_the_tensors_is_read_or_written(monkeypatch):
    """By the interpreter's addresses; on a card only the values are looked at."""
    read, written = set(), set()
    if interpreted():
        from triton.runtime.interpreter import InterpreterBuilder

        def noting(name, seen):
            original, mask_at = getattr(InterpreterBuilder, name), 1 if name == "create_masked_load" else 2

            def run(self, pointers, *more):
                seen.update(pointers.data[more[mask_at - 1].data].flatten().tolist())
                return original(self, pointers, *more)

            monkeypatch.setattr(InterpreterBuilder, name, run)

        noting("create_masked_load", read)
        noting("create_masked_store", written)
    given = operands(37, 21, 19, strided=False)
    given[1].data = given[1].contiguous()
    with tuning.choosing("geglu_product", **TILES):
        out = geglu_product_kernel(*given)
    torch.testing.assert_close(out, geglu_product_eager(*given), rtol=1e-5, atol=1e-5)

    def places(*tensors):
        return {t.data_ptr() + 4 * i for t in tensors for i in range(t.numel())}

    assert not interpreted() or (read == places(*given) and written == places(out))


def test_constraints_name_what_does_not_fit():
    declines, (x, weight, bias) = KERNELS["geglu_product"].declines, operands(3, 8, 5)
    with torch.no_grad():
        assert declines(x, weight, bias) is declines(x, weight, None) is None
        mixed = "input, weights and bias differ in dtype"
        assert declines(x.half(), weight, bias) == declines(x, weight, bias.half()) == mixed
        assert "not an even number of rows as wide" in declines(x, weight[:-1], None)
        assert "not an even number of rows as wide" in declines(x[:, :-1], weight, None)
        assert declines(x, weight, bias[:-1]) == "the bias is not one of each row of weights"
        assert declines(random(8, 3).t(), weight, None) == "its last axis is strided"
        assert declines(random(4, 6, 8)[:, :3], weight, None) == "its rows lie at several distances"
        assert declines(x, random(8, 10).t(), None) == "the weights are no rows of numbers"
        assert declines(x.double(), weight.double(), None) == "no kernel for torch.float64"
        many = torch.empty(1, 8, device=DEVICE).expand(2**31, 8)
        assert "rows are more than" in declines(many, weight, None)
    assert declines(x, weight.requires_grad_(), None) == "gradients are asked for"
    # What is declined runs as a product and GEGLU.
    torch.testing.assert_close(geglu_product(*double(x, weight.detach(), bias)),
                               geglu_product_eager(*double(x, weight.detach(), bias)))  # fmt: skip
    (gradient,) = torch.autograd.grad(geglu_product(x, weight, bias).sum(), weight)
    (expected,) = torch.autograd.grad(geglu_product_eager(x, weight, bias).sum(), weight)
    torch.testing.assert_close(gradient, expected)


def test_products_of_float32_are_as_exact_as_torchs_are_asked_to_be(monkeypatch):
    before = torch.get_float32_matmul_precision()
    try:
        for asked, expected in (("high", "tf32"), ("highest", "ieee")):
            torch.set_float32_matmul_precision(asked)
            assert precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)
    for allowed, expected in ((True, "tf32"), (False, "ieee")):  # of versions that have no other switch
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=allowed))
        assert precision() == expected


@pytest.fixture
def launches(monkeypatch):
    """The inputs of each launch; a CPU is taken for a card."""
    seen = []
    monkeypatch.setattr("unet_motion.ops.layer.CARDS", (DEVICE.type,))
    original = feed_forward.geglu_product_kernel
    monkeypatch.setattr(feed_forward, "geglu_product_kernel", lambda *given: seen.append(given) or original(*given))
    return seen


def made(width=16):
    return FeedForward(make_factory(None, None, torch.float32, None), width).to(DEVICE).requires_grad_(False)


@torch.no_grad()
def test_a_layer_takes_it_only_where_it_is_chosen_and_nobody_looks_between(launches):
    layer, tokens = made(), random(2, 3, 16)
    proj = layer.net[0].proj

    def launched():
        del launches[:]
        with tuning.choosing("geglu_product"):
            out = layer(tokens)
        with kernels.use("eager"):
            torch.testing.assert_close(out, layer(tokens), rtol=1e-5, atol=1e-5)
        return len(launches)

    assert launched() == 1
    proj.weight.mul_(1.5)
    assert launched() == 1, "an edit is seen"
    layer(tokens)
    assert len(launches) == 1, "not chosen"
    for register in (proj.register_forward_hook, proj.register_forward_pre_hook):
        hook = register(lambda *_: None)
        assert launched() == 0
        hook.remove()
    proj.read_weights = lambda module, x: (module.weight, module.bias)
    assert launched() == 0, "a host's layer"
    del proj.read_weights
    with torch.enable_grad():
        assert launched() == 0
    lora = LowRank({proj: [(random(2, 16), random(128, 2), 0.5)]})
    with tuning.choosing("geglu_product"):
        changed = layer(tokens[None], lora)
    assert not torch.allclose(changed, layer(tokens)), "a LoRA changes the product"
    with torch.autocast(DEVICE.type, torch.bfloat16), tuning.choosing("geglu_product"):
        geglu_layer(proj, tokens)
        found = feed_forward.geglu_product(tokens, proj.weight, proj.bias)
    assert found.dtype == torch.bfloat16, "as torch's own product in autocast"
    assert len(launches) == 0
    float8.convert([proj])
    with tuning.choosing("geglu_product"):
        geglu_layer(proj, tokens)
    assert len(launches) == 0, "in float8"
    layer = made()
    layer.net[0].proj = nn.Linear(16, 128, bias=False, device=DEVICE)
    proj = layer.net[0].proj
    assert launched() == 1


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of a card of capability 9.0 with one entry."""
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(tuning, "capability", lambda device: "9.0")
    sizes = {"rows": 128, "depth": 16, "width": 64}
    use = {"ROWS": 64, "BLOCK": 64, "DEPTH": 16, "num_warps": 4, "num_stages": 3}
    entry = {"kernel": "geglu_product", "dtype": "float16", "sizes": sizes, "use": use}
    (tmp_path / "9.0.json").write_text(json.dumps([entry]))
    for cached in (tuning._found, tuning._table):
        cached.cache_clear()
    yield
    for cached in (tuning._found, tuning._table):
        cached.cache_clear()


def test_an_entry_stands_for_its_size_and_the_numbers_of_rows_down_to_half_of_it(table):
    def chosen(rows, depth=16, width=64, dtype=torch.float16, device="cuda"):
        sizes = sizes_of(torch.empty(rows, depth, device="meta"), torch.empty(2 * width, depth, device="meta"))
        return tuning.is_chosen("geglu_product", torch.device(device), dtype, **sizes)

    assert [chosen(rows) for rows in (1, 64, 65, 100, 128, 129)] == [False, False, True, True, True, False]
    assert not any([chosen(128, depth=17), chosen(128, width=32), chosen(128, dtype=torch.bfloat16)])
    assert not chosen(128, device="cpu")
    with tuning.choosing("geglu"):
        assert not chosen(129)
    with tuning.choosing("geglu_product"):
        assert chosen(129)


@pytest.mark.parametrize("mode", kernels.MODES)
def test_what_is_no_two_halves_is_refused(mode):
    with kernels.use(mode), pytest.raises(ValueError, match="`weight` has 5 rows, expected an even number"):
        feed_forward.geglu_product(random(3, 4), random(5, 4), None)
    with kernels.use(mode), pytest.raises(ValueError, match="`x` has 7 channels, expected an even number"):
        feed_forward.geglu(random(3, 7))


def test_the_report_says_why_it_does_or_does_not_run(table, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(dispatch, "unavailable", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))

    def path(dtype):
        return kernels.report("cuda", dtype).operations["geglu_product"]

    assert path(torch.float16).runs == "triton" and "at the 1 sizes where it was measured" in path(torch.float16).note
    assert path(torch.bfloat16).runs == "eager"
    assert "not measured to be faster" in path(torch.bfloat16).note and "ops/tuned" in path(torch.bfloat16).note
    with tuning.choosing("geglu_product"):
        assert path(torch.bfloat16).runs == "triton"
    with kernels.use("eager"):
        assert "not asked for" in path(torch.float16).note
