"""Products in float8 against float64: the factors by a rounding of its own, the error by a bound in closed form."""

import contextlib
import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.reference import SD15, SDXL, TINY, randomise
from unet_motion import ForwardOptions, StepGraphs, UNetMotionModel, apply_motion_lora, kernels
from unet_motion.model import float8_products
from unet_motion.ops import layer as layers
from unet_motion.ops.linear import float8, onto, projections
from unet_motion.training.lora import LoraSettings, TrainableLora
from unet_motion.training.trainer import MotionTrainer

WIDE = {"block_out_channels": (32, 64), "norm_num_groups": 8, "cross_attention_dim": 48}
NETS = {
    "conv": TINY | WIDE,
    "linear": SDXL | WIDE | {"block_out_channels": (16, 32, 64), "layers_per_block": 1},
    "sd15": SD15 | WIDE | {"block_out_channels": (16, 32, 64, 64)},
}


def by_hand(x):
    """x rounded to float8_e4m3fn, half to even: three bits behind the first, none finer than 2**-9, 448 at most.

    torch rounds to float32 on the way, which may make a half of what is next to one.
    """
    x = x.float().double()
    step = 2.0 ** (torch.floor(torch.log2(x.abs().clamp_min(2.0**-6))) - 3)
    return (torch.round(x / step) * step).clamp(-448, 448)


def scale_by_hand(*weights):
    largest = max(float(weight.abs().max()) for weight in weights)
    return 2.0 ** torch.ceil(torch.log2(torch.tensor(largest / 448, dtype=torch.float64)))


def random(*shape, seed=0, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def linear(inputs, outputs, bias=True, spread=0.1, dtype=torch.float64, seed=1):
    made = nn.Linear(inputs, outputs, bias=bias, dtype=dtype).requires_grad_(False)
    made.weight.copy_(random(outputs, inputs, seed=seed, spread=spread))
    return made


@pytest.fixture
def card(monkeypatch):
    """A CPU counts as a card within it."""

    @contextlib.contextmanager
    def within():
        with monkeypatch.context() as patch:
            patch.setattr(layers, "CARDS", ("cpu",))
            yield

    return within


def test_the_scale_is_the_least_power_of_two_that_fits():
    for exponent in range(-20, 20):
        for times in (1.0, 1.001, 1.5, 1.999, 0.999):
            largest = torch.tensor(448.0 * 2.0**exponent * times)
            assert float8.scale_of(largest) == scale_by_hand(largest), (exponent, times)
    assert float8.scale_of(torch.tensor(0.0)) == 1
    assert float8.scale_of(torch.tensor(1e-20)) == 2.0**-24


@pytest.mark.parametrize("spread", [1e-3, 0.1, 30])
def test_a_layer_against_float64(spread):
    layer = linear(48, 32, spread=spread)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    x = random(3, 5, 48, seed=2, spread=2) * torch.logspace(-6, 1.6, 48, dtype=torch.float64)
    exact = F.linear(x, weight, bias)
    float8.convert([layer])
    scale = scale_by_hand(weight)
    found = layer(x)
    torch.testing.assert_close(found, F.linear(by_hand(x), by_hand(weight / scale) * scale, bias), rtol=0, atol=1e-9)
    # Each factor is off by a sixteenth of itself at most, or by half of the finest step; the largest input is 448.
    assert x.abs().max() <= 448 and layer.weight.dtype == torch.float8_e4m3fn
    most_x, most_w = x.abs() * (1 + 2**-4) + 2**-10, weight.abs() * (1 + 2**-4) + scale * 2**-10
    bound = F.linear(most_x, most_w) - F.linear(x.abs(), weight.abs())
    assert ((found - exact).abs() <= bound).all() and ((found - exact).abs() > bound * 1e-4).any()


def test_inputs_end_at_the_largest_number():
    layer = linear(16, 16, bias=False)
    float8.convert([layer])
    x = torch.tensor([1e4, -500.0, 464.0, -float("inf"), 449.0], dtype=torch.float64)[:, None].expand(5, 16)
    signs = torch.tensor([1.0, -1, 1, -1, 1], dtype=torch.float64)[:, None]
    assert torch.equal(layer(x), layer(signs.expand(5, 16) * 448))
    assert layer(torch.full((1, 16), float("nan"), dtype=torch.float64)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_cards_product_is_the_plain_twins(dtype, card):
    if float8.product_on(torch.device("cpu")) is None:
        pytest.skip("torch multiplies no float8 on this CPU")
    first, second = (linear(64, 32, bias, dtype=dtype, seed=seed) for seed, bias in ((1, True), (2, False)))
    pair = [linear(64, outputs, False, dtype=dtype, seed=outputs) for outputs in (16, 48)]
    x = random(2, 7, 64, seed=3).to(dtype)
    float8.convert(pair)
    for layer in (first, second):
        float8.convert([layer])
    plain = [first(x), second(x), *projections.project(pair, x)]
    with card():
        for layer in (first, second, *pair):
            layer.choose_product()
            assert layer.product is not None
        found = [first(x), second(x), *projections.project(pair, x)]
    for one, other in zip(found, plain, strict=True):
        assert one.dtype == dtype
        step = torch.finfo(dtype).eps
        torch.testing.assert_close(one, other, rtol=2 * step, atol=4 * step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cards_product_gets_rows_and_adds_the_bias_in_16_bits(dtype):
    conv, found = nn.Conv2d(16, 32, 1, dtype=dtype).requires_grad_(False), []
    float8.convert([conv])

    def product(rows, weight, of_rows, of_weight, bias, wanted):
        found.append((rows.is_contiguous(), weight.is_contiguous(), bias is not None))
        assert of_rows == 1 and of_weight is conv.weight_scale and wanted == dtype
        return float8.twin(rows, weight, of_weight, bias, wanted)

    x = random(1, 16, 5, 3).to(dtype)  # whose pixels lie column by column
    expected = conv(x)
    conv.product = product
    torch.testing.assert_close(conv(x), expected)
    assert found == [(True, True, dtype != torch.float32)]


def test_shapes():
    layer = linear(32, 16)
    float8.convert([layer])
    for shape in ((32,), (0, 32), (2, 0, 3, 32), (5, 1, 2, 32)):
        assert layer(random(*shape)).shape == (*shape[:-1], 16)
        assert float8.project([layer], random(*shape))[0].shape == (*shape[:-1], 16)


def test_a_product_that_gives_other_values_is_none_that_works(monkeypatch):
    wrong = [lambda *_: torch.full((16, 16), 25.0), lambda *_: None + 1, lambda *_: torch.zeros(3).view(7)]
    assert not any(float8._works(way, torch.device("cpu")) for way in wrong)
    assert float8._works(lambda x, w, a, b, bias, dtype: (x.float() @ w.float().t()) * a * b, torch.device("cpu"))
    assert float8.product_on(torch.device("meta")) is None


def test_a_1x1_convolution_is_a_product():
    conv = nn.Conv2d(32, 16, 1, dtype=torch.float64).requires_grad_(False)
    weight, x = conv.weight.clone(), random(2, 32, 5, 3)
    float8.convert([conv])
    scale = scale_by_hand(weight)
    torch.testing.assert_close(
        conv(x), F.conv2d(by_hand(x), by_hand(weight / scale) * scale, conv.bias), rtol=0, atol=1e-12
    )
    assert conv(x).is_contiguous(memory_format=torch.channels_last)


def test_what_fits():
    assert float8.fits(linear(16, 32)) and float8.fits(nn.Conv2d(16, 32, 1))
    wrong = [linear(16, 24), linear(24, 16), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 1, 2), nn.Conv2d(32, 32, 1, 1, 1)]
    wrong += [nn.Conv2d(32, 32, 1, groups=2), nn.LayerNorm(16), nn.Conv1d(16, 16, 1)]
    assert not any(map(float8.fits, wrong))


def test_layers_of_one_input_share_a_scale_and_one_tensor():
    pair = [linear(32, 16, False, spread=0.01), linear(32, 48, False, spread=1, seed=7)]
    weights, x = [layer.weight.clone() for layer in pair], random(3, 4, 32, seed=8)
    float8.convert(pair)
    scale, y = scale_by_hand(*weights), by_hand(x)
    expected = [F.linear(y, by_hand(weight / scale) * scale) for weight in weights]
    assert float8._packed(pair) is not None

    def check():
        for found, exact in zip(projections.project(pair, x), expected, strict=True):
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)

    check()
    pair = copy.deepcopy(pair)
    assert float8._packed(pair) is None  # copies lie apart
    check()
    float8.pack(pair)
    assert float8._packed(pair) is not None
    check()
    pair[1].register_forward_hook(lambda module, args, out: 2 * out)
    expected[1] = 2 * expected[1]
    check()


def test_a_hook_before_one_of_them_is_called_in_one_product_too():
    pair, x = [linear(32, 16, False, seed=seed) for seed in (1, 2)], random(3, 32)
    float8.convert(pair)
    plain = [layer(2 * x) for layer in pair]
    for layer in pair:
        layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    for fused in (False, True):
        for found, expected in zip(projections.project(pair, x, fused), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_bias_goes_ahead_behind_a_float8_layer_that_nobody_watches(card):
    first, last, x = linear(32, 32), linear(32, 16, seed=2), random(3, 32)
    float8.convert([first])
    with card(), kernels.use("triton"), torch.no_grad():
        assert onto.bias_ahead(first, last, x) is last.bias
        assert onto.bias_ahead(last, first, x) is None
        first.register_forward_hook(lambda module, args, out: 2 * out)
        assert onto.bias_ahead(first, last, x) is None


def test_packing_takes_the_larger_of_two_scales():
    pair = [linear(16, 16, False, spread=spread, seed=3) for spread in (0.1, 3)]
    x = random(5, 16)
    for layer in pair:
        float8.convert([layer])
    assert pair[0].weight_scale < pair[1].weight_scale
    apart = [layer(x) for layer in pair]
    float8.pack(pair)
    # What was finer than the larger scale's finest step is rounded again.
    for found, before in zip(projections.project(pair, x), apart, strict=True):
        torch.testing.assert_close(found, before, rtol=0, atol=16 * 4 * 2.0**-10 * float(pair[1].weight_scale))


def test_moves_casts_and_copies_keep_the_rounded_weights():
    layer = linear(32, 16)
    float8.convert([layer])
    x, weight, scale = random(4, 32), layer.weight.clone(), layer.weight_scale.clone()
    before, bias = layer(x), layer.bias.clone()
    torch.save(layer, file := io.BytesIO())
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    for moved in (copy.deepcopy(layer).half().double(), loaded, copy.deepcopy(layer).cpu()):
        assert torch.equal(moved.weight.view(torch.uint8), weight.view(torch.uint8)) and moved.weight_scale == scale
        torch.testing.assert_close(moved(x), before, rtol=0, atol=1e-3)
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half.bias.dtype == torch.bfloat16 and half.weight_scale.dtype == torch.float32
    assert half.weight.dtype == torch.float8_e4m3fn and half(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(layer.bias, bias, rtol=0, atol=0)
    meta = copy.deepcopy(layer).to("meta")
    assert {t.device.type for t in (meta.weight, meta.weight_scale, meta.input_scale, meta.bias)} == {"meta"}


@pytest.mark.parametrize("assign", [True, False])
def test_loading(assign):
    layer, other = linear(32, 16, dtype=torch.float32), linear(32, 16, spread=3, dtype=torch.float32, seed=9)
    state = other.state_dict()
    x = random(4, 32).float()
    for made in (layer, other):
        float8.convert([made])
    saved = layer.state_dict()
    assert set(saved) == {"weight", "weight_scale", "bias"}
    layer = copy.deepcopy(layer)
    layer.load_state_dict({name: t.clone() for name, t in state.items()}, assign=assign)
    assert torch.equal(layer(x), other(x)) and layer.weight.dtype == torch.float8_e4m3fn
    layer.load_state_dict(saved, assign=assign)
    assert torch.equal(layer.weight.view(torch.uint8), saved["weight"].view(torch.uint8))
    assert not torch.equal(layer(x), other(x))


@pytest.mark.parametrize("assign", [True, False])
def test_loading_into_layers_that_share_a_scale(assign):
    """Each keeps what it is given, however unequal, and they lie together again when they are packed."""
    sizes = (8, 1, 2**-6)
    plain = [linear(32, 16, bias=False, dtype=torch.float32, spread=size, seed=i) for i, size in enumerate(sizes)]
    wanted = [layer.state_dict() for layer in plain]
    held = [linear(32, 16, bias=False, dtype=torch.float32, seed=9 + i) for i in range(3)]
    float8.convert(held)
    for layer, state in zip(held, wanted, strict=True):
        layer.load_state_dict({name: t.clone() for name, t in state.items()}, assign=assign)
    for layer, state in zip(held, wanted, strict=True):
        error = (layer.weight.float() * layer.weight_scale - state["weight"]).norm() / state["weight"].norm()
        assert error < 0.04, error
    x = random(4, 32).float()
    apart = [layer(x) for layer in held]
    again = [linear(32, 16, bias=False, dtype=torch.float32, seed=9 + i) for i in range(3)]
    float8.convert(again)
    for layer, other in zip(again, held, strict=True):
        layer.load_state_dict({name: t.clone() for name, t in other.state_dict().items()}, assign=assign)
    assert all(torch.equal(layer(x), out) for layer, out in zip(again, apart, strict=True))
    assert float8._packed(held) is None
    float8.pack(held)
    assert float8._packed(held) is not None and len({float(layer.weight_scale) for layer in held}) == 1
    coarse = 4.5 * 32 * 2.0**-10 * float(held[0].weight_scale)  # half of the least step, times inputs of up to 4.5
    for found, before in zip(projections.project(held, x), apart, strict=True):
        torch.testing.assert_close(found, before, rtol=0, atol=coarse)


def test_scales_are_tensors_of_their_own_for_those_who_call_with_a_state_dict():
    pair = nn.ModuleList([linear(16, 16, bias=False, dtype=torch.float32, seed=seed) for seed in (1, 2)])
    float8.convert(list(pair))
    assert len({layer.weight_scale.data_ptr() for layer in pair}) == 2
    x = random(3, 16).float()
    run = nn.Sequential(*pair)
    assert torch.equal(torch.func.functional_call(run, run.state_dict(), x), run(x))


def test_a_cast_that_reaches_whole_numbers_leaves_the_bits():
    layer = linear(32, 16)
    float8.convert([layer])
    weight, x = layer.weight.clone(), random(4, 32)
    before = layer(x)
    layer.type(torch.bfloat16)
    assert torch.equal(layer.weight.view(torch.uint8), weight.view(torch.uint8)) and layer.bias.dtype == torch.bfloat16
    torch.testing.assert_close(layer(x.bfloat16()).double(), before, rtol=0.02, atol=0.05)


def test_gradients_are_refused():
    layer = linear(16, 16)
    float8.convert([layer])
    x = random(2, 16).requires_grad_()
    with pytest.raises(RuntimeError, match="float8 products have no gradient"):
        layer(x)
    with pytest.raises(RuntimeError, match="float8 products have no gradient"):
        projections.project([layer], x)
    several = [linear(16, 16, bias=False, seed=seed) for seed in (1, 2, 3)]
    float8.convert(several)
    several[2].weight.requires_grad_()
    with pytest.raises(RuntimeError, match="float8 products have no gradient"):
        projections.project(several, x.detach())
    assert layer(x.detach()).shape == (2, 16)
    layer.bias.requires_grad_()
    with pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
        layer(x.detach())
    with torch.no_grad():
        layer(x)


def test_autocast_says_the_dtype():
    layer = linear(16, 16, dtype=torch.float32)
    float8.convert([layer])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(random(2, 16).float()).dtype == torch.bfloat16


def test_a_layer_compiles_whole():
    layer = linear(32, 16, dtype=torch.float32)
    float8.convert([layer])
    x = random(4, 32).float()
    with torch.no_grad():
        found = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(found, layer(x), rtol=1e-6, atol=1e-6)


def build(config, dtype=torch.float64):
    return randomise(UNetMotionModel(**config, dtype=dtype)).requires_grad_(False)


def step(unet, fused=False, **options):
    config, generator, dtype = unet.config, torch.Generator().manual_seed(1), unet.dtype
    sample, text = (torch.randn(s, generator=generator) for s in ((6, 4, 8, 8), (2, 5, config.cross_attention_dim)))
    more = {}
    if config.addition_embed_type == "text_time":
        vector = {"text_embeds": torch.ones(2, 10, dtype=dtype), "time_ids": torch.ones(2, 6, dtype=dtype)}
        more["added_cond_kwargs"] = vector
    unet.set_defaults(fused_projections=fused)
    options = ForwardOptions(attn_processors="math", **options)
    return unet.forward_frames(sample.to(dtype), 3, text.to(dtype), 3, options=options, **more)


def rounded_by_hand(unet, paths):
    """The network with the weights of some layers rounded, and hooks that round what they read."""
    for layer in (unet.get_submodule(path) for path in paths):
        together = [layer]
        for attention in (attention for _, attention in unet.attention_layers):
            if layer in attention.same_input:
                together = list(attention.same_input)
        layer.scale = scale_by_hand(*(getattr(one, "before", one.weight) for one in together))
        layer.before = layer.weight.clone()
        layer.weight.copy_(by_hand(layer.weight / layer.scale) * layer.scale)
        layer.register_forward_pre_hook(lambda module, args: (by_hand(args[0]),))
    return unet


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
PARTS = (*(f"attn{i}.{end}" for i in (1, 2) for end in ATTENTION), "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


@pytest.mark.parametrize("name", ["conv", "linear"])
def test_a_network_is_the_one_with_rounded_factors(name, card):
    plain = build(NETS[name])
    unet = copy.deepcopy(plain)
    paths = unet.enable_float8_products(least_outputs=0)
    assert paths == unet.enable_float8_products(least_outputs=0)
    assert all(".attentions." in path or ".motion_modules." in path for path in paths)
    for kind in (".attentions.", ".motion_modules."):
        assert all(any(kind in path and path.endswith(part) for path in paths) for part in PARTS)
    assert {path for path, m in unet.named_modules() if float8.is_float8(m)} == set(paths)
    expected = step(rounded_by_hand(copy.deepcopy(plain), paths))
    before = step(plain)
    found = step(unet)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert 1e-3 < (found - before).norm() / before.norm() < 0.3
    torch.testing.assert_close(step(unet, fused=True), expected, rtol=0, atol=1e-9)
    with card(), kernels.use("triton"):
        unet.arrange_weights()
        torch.testing.assert_close(step(unet), expected, rtol=0, atol=1e-9)


def test_narrow_products_stay():
    unet = build(NETS["sd15"])
    wide = unet.enable_float8_products(least_outputs=257)
    found = {path: unet.get_submodule(path).weight.shape[0] for path in wide}
    assert found and all(count == 512 for path, count in found.items()), found  # feed-forward of 64 alone
    assert build(NETS["sd15"]).enable_float8_products() == []  # as narrow as this nothing is gained
    threes = build(NETS["sd15"]).enable_float8_products(least_outputs=192)
    assert set(wide) < set(threes) and any(path.endswith("to_v") for path in threes)
    assert not any("attn2.to_k" in path and ".attentions." in path for path in threes)  # two of 64 outputs


def lora_of(unet, paths):
    generator = torch.Generator().manual_seed(4)
    found = {}
    for path in paths:
        weight = unet.get_submodule(path).weight.flatten(1)
        found[f"{path}.lora_A.weight"] = torch.randn(3, weight.shape[1], generator=generator) * 0.1
        found[f"{path}.lora_B.weight"] = torch.randn(weight.shape[0], 3, generator=generator) * 0.1
    return found


def test_loras_act_beside_rounded_weights():
    unet = build(NETS["conv"])
    paths = [path for path in unet.enable_float8_products(least_outputs=0) if ".motion_modules." in path]
    before = step(unet)
    tensors = lora_of(unet, paths)
    late = apply_motion_lora(unet, tensors, 0.7)
    found = step(unet)
    early = build(NETS["conv"])
    apply_motion_lora(early, tensors, 0.7)
    early.enable_float8_products(least_outputs=0)
    assert torch.equal(step(early), found) and not torch.allclose(found, before)
    late.remove()
    assert torch.equal(step(unet), before)


def test_graphs_replay_and_see_moved_weights():
    def recorder(work, device):
        out = work()
        return (lambda: out.copy_(work())), out

    unet = build(NETS["conv"], torch.float32)
    graphs = StepGraphs(unet, recorder=recorder)
    sample, text = torch.randn(6, 4, 8, 8), torch.randn(2, 5, 48)
    with torch.no_grad():
        plain = graphs(sample, 3, text, num_frames=3)
        unet.enable_float8_products(least_outputs=0)
        found = graphs(sample, 3, text, num_frames=3)
        assert len(graphs) == 2 and not torch.allclose(found, plain)
        torch.testing.assert_close(graphs(sample, 3, text, num_frames=3), found)
        torch.testing.assert_close(unet.forward_frames(sample, 3, text, num_frames=3), found)
        assert len(graphs) == 2


def test_what_needs_the_weights_as_they_were_is_refused(tmp_path):
    unet = build(NETS["conv"], torch.float32)
    adapter = unet.motion_adapter()
    unet.enable_float8_products(least_outputs=0)
    asked = {
        "to save": lambda: unet.save_pretrained(tmp_path / "unet"),
        "to take motion modules from": lambda: unet.save_motion_modules(tmp_path / "motion"),
        "to load motion modules into": lambda: unet.load_motion_modules(adapter),
        "to train": lambda: MotionTrainer(unet, None, None, None, tmp_path / "run"),
        "to train a LoRA on": lambda: TrainableLora(unet, LoraSettings()),
    }
    for what, work in asked.items():
        with pytest.raises(ValueError, match=f"rounded to float8 .* expected a UNet .* {what}\\."):
            work()
    assert not list(tmp_path.iterdir())
    float8_products.refuse(build(NETS["conv"]), "to save")
    with pytest.raises(RuntimeError, match="no gradient"):
        unet.requires_grad_(False).conv_in.requires_grad_(True)
        step(unet)


def test_layers_that_cannot_be_rounded_are_named():
    def spoilt(change, **more):
        unet = UNetMotionModel(**NETS["conv"], **more)
        change(unet)
        with pytest.raises(ValueError) as found:
            unet.enable_float8_products(least_outputs=0)
        assert not any(map(float8.is_float8, unet.modules()))
        return str(found.value)

    place = "up_blocks.1.motion_modules.1.proj_out"
    assert f"{place} has weights that are not finite" in spoilt(
        lambda unet: unet.get_submodule(place).weight.data.fill_(float("inf"))
    )
    assert f"{place} has weights that are not finite" in spoilt(
        lambda unet: unet.double().get_submodule(place).weight.data.fill_(1e300)
    )
    for wrong in (-1, 1.5, True, float("nan"), "all", None):
        with pytest.raises(ValueError, match="`least_outputs` is .*, expected a whole number of at least 0"):
            UNetMotionModel(**NETS["conv"]).enable_float8_products(wrong)
    assert "is on the device meta" in spoilt(lambda unet: None, device="meta")
    assert "that a host computes" in spoilt(lambda unet: None, weights=lambda layer, x: (layer.weight, layer.bias))
    assert f"{place} has weights in torch.float8_e5m2" in spoilt(
        lambda unet: unet.get_submodule(place).to(torch.float8_e5m2)
    )
