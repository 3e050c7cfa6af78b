"""What a step launches and moves on a card, counted on tensors without memory, against counts by hand and by torch."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from unet_motion import UNetMotionModel
from unet_motion.bench.card import count
from unet_motion.bench.card.networks import Steps, inputs_of
from unet_motion.bench.card.sizes import REHEARSAL
from unet_motion.ops.linear import float8

CUDA = torch.device("cuda", 0)


def counted(work):
    with count.without_a_card() as card, torch.no_grad():
        return count.count(lambda: work(lambda *shape: torch.empty(*shape, dtype=torch.float16, device=CUDA)), card)


def test_a_product_and_a_pass_by_hand():
    found = counted(lambda make: F.gelu(F.linear(make(3, 5, 8), make(16, 8), make(16))).transpose(0, 1)[..., :2])
    product, gelu = found.launches
    assert (product.kind, product.moved, product.work) == ("product", 2 * (120 + 128 + 16 + 240), 2 * 15 * 8 * 16)
    assert (gelu.kind, gelu.moved, gelu.work) == ("pass", 2 * 2 * 240, 0)
    assert found.moved == product.moved + gelu.moved and found.work == product.work
    inside = counted(lambda make: make(6, 4).addmm_(make(6, 2), make(2, 4)))
    assert [(launch.name, launch.moved) for launch in inside.launches] == [("addmm_", 2 * (12 + 8 + 24 + 24))]


def test_geglu_inside_the_product_by_hand():
    pytest.importorskip("triton", reason="Triton is not installed")
    from unet_motion.ops.feed_forward import geglu_product_kernel

    (product,) = counted(lambda make: geglu_product_kernel(make(3, 5, 8), make(16, 8), make(16))).launches
    moved = 2 * (15 * 8 + 16 * 8 + 16 + 15 * 8)
    assert (product.kind, product.moved, product.work) == ("product", moved, 2 * 15 * 8 * 16)


def test_a_repeated_row_is_read_once():
    (found,) = counted(lambda make: make(7, 4) + make(4).expand(7, 4)).launches
    assert found.moved == 2 * (28 + 4 + 28)


@pytest.mark.parametrize("last", [True, False])
def test_a_convolution_brings_its_bias_and_the_copies_of_its_weights(last):
    def work(make):
        order = torch.channels_last if last else torch.contiguous_format
        return F.conv2d(make(2, 4, 6, 5).contiguous(memory_format=order), make(8, 4, 3, 3), make(8), 2, 1)

    found = [launch for launch in counted(work).launches if launch.name != "clone"]
    copies, out = [("copy of a convolution's weights", 2 * 2 * 288)], 2 * 8 * 3 * 3
    assert [(launch.name, launch.moved) for launch in found] == [
        *(copies if last else []),
        ("convolution", 2 * (240 + 288 + out)),
        ("a convolution's bias", 2 * (2 * out + 8)),
    ]
    assert sum(launch.work for launch in found) == 2 * out * 36


def test_attention_fills_up_its_heads():
    shapes = (2, 3, 10, 40), (2, 3, 7, 40), (2, 3, 7, 40)
    (launch,) = counted(lambda make: F.scaled_dot_product_attention(*(make(*shape) for shape in shapes))).launches
    assert launch.work == 4 * 2 * 3 * 10 * 7 * 40 and launch.done == launch.work * 64 / 40


def test_the_floor_takes_products_of_one_input_together():
    many, width = 1 << 16, 64

    def apart(make):
        x = make(many, width)
        return F.linear(x, make(width, width)), F.linear(x, make(width, width))

    def joined(make):
        return F.linear(make(many, width), make(2 * width, width))

    floor = 2 * (3 * many * width) / count.BYTES
    for work in (apart, joined):
        assert counted(work).floor() == pytest.approx(floor, rel=1e-2)
    assert counted(apart).seconds > 1.3 * floor
    assert counted(lambda make: F.gelu(make(many))).floor() == 0


def test_a_product_in_float8_by_hand():
    """Without memory there is no value that a host could wait for, so that a graph may hold it."""

    def work(make):
        layer = torch.nn.Linear(32, 64, dtype=torch.float16, device=CUDA).requires_grad_(False)
        assert float8.fits(layer)
        float8.convert([layer])
        return layer(make(48, 32))

    *passes, product = counted(work).launches
    moved = 48 * 32 + 64 * 32 + 4 + 4 + 2 * 64 + 2 * 48 * 64
    assert (product.kind, product.moved, product.work) == ("float8 product", moved, 2 * 48 * 32 * 64)
    assert product.rate == 2 * count.ARITHMETIC
    assert [launch.moved for launch in passes[-2:]] == [2 * 2 * 48 * 32, 3 * 48 * 32]


def test_a_step_has_the_arithmetic_that_torch_counts_and_kernels_have_fewer_launches():
    pytest.importorskip("triton", reason="Triton is not installed")
    sizes = dataclasses.replace(REHEARSAL, frames=3)
    found = count.steps(sizes, 4)
    ways = ["plain", "kernels", "kernels, GEGLU inside the product"]
    assert list(found) == [*ways, *(f"{way}, float8" for way in ways)]
    unet = UNetMotionModel(**sizes.network).eval().double()  # for which a CPU has no ways of its own
    unet.set_attn_processor("math")  # of which torch counts every product
    with FlopCounterMode(display=False) as flops:
        Steps(unet, None).step(inputs_of(sizes, 4, torch.device("cpu"), torch.float64), "eager")
    assert found["plain"].work == found["kernels"].work
    assert found["plain"].work == flops.get_total_flops()
    plain, kernels, inside = (found[way] for way in ways)
    assert len(kernels.launches) < 0.7 * len(plain.launches) and kernels.moved < plain.moved
    kinds = {launch.name for launch in kernels.launches}
    assert {"geglu", "add_layer_norm", "temporal_attention", "residual_sum", "group_norm", "addmm_"} <= kinds
    assert not {"gelu_", "native_layer_norm", "silu_", "stack", "copy of a convolution's weights"} & kinds
    # A launch less in each feed-forward layer, and neither value nor gate is written or read.
    layers = sum(launch.name == "geglu" for launch in kernels.launches)
    assert layers == sum(launch.name == "geglu_product" for launch in inside.launches) > 0
    assert len(inside.launches) == len(kernels.launches) - layers and inside.work == kernels.work
    halves = sum(launch.written for launch in kernels.launches if launch.name == "geglu")
    assert inside.moved == kernels.moved - 2 * 2 * halves and inside.seconds < kernels.seconds
    assert "not measured" not in count.report(sizes) and "estimates" in count.report(sizes)
