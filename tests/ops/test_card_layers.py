"""Layers that a graphics card computes together, on a CPU that is taken for one: the layers' own values, edits too."""

import contextlib
import copy
from collections import Counter

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.test_packed import EDITS
from tests.reference import SDXL, TINY, randomise
from unet_motion import ForwardOptions, UNetMotionModel, kernels
from unet_motion.forward.lora import MotionLora
from unet_motion.model.transformer import FeedForward
from unet_motion.ops import layer
from unet_motion.ops.conv import cpu, cuda
from unet_motion.ops.linear import packed

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def convolutions_of_a_card(monkeypatch):
    """None in the ways of a CPU."""
    monkeypatch.setattr(cpu, "_plain_on_cpu", lambda conv, x: False)
    monkeypatch.setattr(cpu, "upsamples_in_phases", lambda conv, x: False)


@pytest.fixture
def card(monkeypatch):
    """Within it a CPU counts as a card."""

    @contextlib.contextmanager
    def within():
        with monkeypatch.context() as patch:
            patch.setattr(layer, "CARDS", ("cpu",))
            yield

    return within


def build(config=TINY, **more):
    return randomise(UNetMotionModel(**config, dtype=torch.float64, **more))


def step(unet, mode="triton", clips=2, **options):
    """A step; kernels decline float64, so that their plain twins run in their places."""
    generator = torch.Generator().manual_seed(1)
    config = unet.config
    shapes = (clips * 3, 4, 8, 6), (clips, 5, config.cross_attention_dim)
    sample, text = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    more = {}
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        vector = torch.randn(clips, width, generator=generator, dtype=torch.float64)
        more["added_cond_kwargs"] = {"text_embeds": vector, "time_ids": torch.ones(clips, 6, dtype=torch.float64)}
    with torch.no_grad(), kernels.use(mode):
        # What a CPU's own attention takes depends on how its input lies.
        options = ForwardOptions(attn_processors="math", **options)
        return unet.forward_frames(sample, 3, text, 3, options=options, **more)


class Calls(TorchDispatchMode):
    """Counts operators, convolutions with a bias by a name of their own."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if func is aten.convolution.default:
            name += " and bias" if args[2] is not None else ""
            last = args[1].is_contiguous(memory_format=torch.channels_last)
            self.counts["in another order"] += not last
        self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", [TINY, SDXL], ids=["tiny", "sdxl"])
@pytest.mark.parametrize("mode", kernels.MODES)
def test_a_step_has_the_same_values_and_fewer_operators(config, mode, card):
    unet = build(config)
    parameters, values = dict(unet.named_parameters()), copy.deepcopy(unet.state_dict())
    with Calls() as apart:
        plain = step(unet, mode)
    with card():
        unet.arrange_weights()
        with Calls() as together:
            found = step(unet, mode)
    torch.testing.assert_close(found, plain, rtol=1e-11, atol=1e-11)
    assert all(parameters[name] is parameter for name, parameter in unet.named_parameters())
    assert list(unet.state_dict()) == list(values)
    assert all(torch.equal(values[name], value) for name, value in unet.state_dict().items())
    own = [a for _, a in unet.attention_layers if not a.is_cross_attention]
    others = len(unet.attention_layers) - len(own)
    resnets = [m for m in unet.modules() if hasattr(m, "time_emb_proj")]
    assert apart.counts["mm"] - together.counts["mm"] == 2 * len(own) + others
    # The first and the last convolution, and those between the resolutions, keep their bias.
    levels = len(unet.down_blocks) - 1
    assert together.counts["convolution and bias"] == 2 + 2 * levels
    assert together.counts["convolution"] == 2 * len(resnets)
    assert together.counts["in another order"] == 0
    assert (together.counts["addmm_"] > 0) == (mode == "triton")


def places(unet):
    """One layer of each kind that is computed in another way on a card."""
    motion = unet.mid_block.motion_modules[0].transformer_blocks[0]
    attentions = unet.down_blocks[0].attentions[0]
    spatial = attentions.transformer_blocks[0]
    resnet = unet.down_blocks[1].resnets[0]
    return {
        "query over time": motion.attn1.to_q,
        "key of pixels": spatial.attn1.to_k,
        "value of text": spatial.attn2.to_v,
        "feed-forward over time": motion.ff.net[2],
        "feed-forward's first": motion.ff.net[0].proj,
        "feed-forward of pixels": spatial.ff.net[2],
        "first convolution": resnet.conv1,
        "second convolution": resnet.conv2,
        "shortcut": resnet.conv_shortcut,
        "convolution to tokens": attentions.proj_in,
        "time": resnet.time_emb_proj,
    }


FORWARD = {
    "forward": lambda module: setattr(module, "forward", lambda x: 2 * type(module).forward(module, x)),
    "pre-hook": lambda module: module.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
}
CHANGES = {**EDITS, **FORWARD}
ALL = ("query over time", "second convolution")
"""Where all of them are tried, one for each way to ask; else some, for time."""


@pytest.mark.parametrize("place", places(UNetMotionModel(**TINY, device="meta")))
def test_every_edit_of_a_layer_is_seen(place, card):
    first = build()
    before = step(first, clips=1)
    for edit, change in CHANGES.items():
        if edit == "bias" and places(first)[place].bias is None:
            continue
        if place not in ALL and edit not in ("another parameter", "hook", "bias"):
            continue
        unet, other = copy.deepcopy(first), copy.deepcopy(first)
        with card():
            unet.arrange_weights()
            with torch.no_grad():
                change(places(unet)[place])
                change(places(other)[place])
            found = step(unet, clips=1)
        expected = step(other, clips=1)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11, msg=edit)
        assert not torch.allclose(found, before), edit


def test_copies_moves_and_casts(card, tmp_path):
    unet = build()
    plain = step(unet)
    with card():
        unet.arrange_weights()
        other = copy.deepcopy(unet)
        assert not any(packed.is_packed(a.same_input) for _, a in other.attention_layers)
        torch.testing.assert_close(step(other), plain, rtol=1e-11, atol=1e-11)
        unet.float().double()
        assert not any(packed.is_packed(a.same_input) for _, a in unet.attention_layers)
        torch.testing.assert_close(step(unet), plain, rtol=1e-4, atol=1e-4)
        unet.arrange_weights()
        assert all(packed.is_packed(a.same_input) for _, a in unet.attention_layers)
        assert unet.time_projections.packed
        torch.testing.assert_close(step(unet), plain, rtol=1e-4, atol=1e-4)
        unet.save_pretrained(tmp_path / "model")
    loaded = UNetMotionModel.from_pretrained(tmp_path / "model", torch_dtype=torch.float64)
    # Behind the card convolutions lie as they did before it once they compute there, and not while they wait.
    unet.double()
    assert not all(p.is_contiguous() for p in unet.parameters())
    torch.testing.assert_close(step(unet), step(loaded), rtol=1e-12, atol=1e-12)
    assert all(p.is_contiguous() for p in unet.parameters())
    # Whoever writes the weights by himself writes what lies in one piece.
    linear = {name: value for name, value in unet.state_dict().items() if value.dim() < 4}
    save_file(linear, tmp_path / "linear.safetensors")


def test_what_is_moved_to_a_card_is_saved_by_others_as_it_is(card, tmp_path):
    unet = build()
    with card():
        unet.float()
        step(unet.double())
        save_file(unet.state_dict(), tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == unet.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in unet.state_dict().items())


def test_loading_over_packed_weights(card):
    unet, other = build(), randomise(build(), 5)
    with card():
        unet.arrange_weights()
        unet.load_state_dict(other.state_dict())
        found = step(unet)
    torch.testing.assert_close(found, step(other), rtol=1e-11, atol=1e-11)


def test_quantised_or_hosted_layers_are_left_alone(card):
    class Other(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Tagged(torch.Tensor):
        pass

    layers = [torch.nn.Linear(4, 4, bias=False) for _ in range(3)]
    for change in (
        lambda: [*layers[:2], Other(4, 4, bias=False)],
        lambda: [*layers[:2], torch.nn.Linear(4, 4, bias=False, dtype=torch.float16)],
        lambda: [*layers[:2], torch.nn.Linear(4, 4)],
    ):
        mixed = change()
        packed.pack(mixed)
        assert not packed.is_packed(mixed)
    with card():
        hosted = build(weights=lambda layer, x: (layer.weight, layer.bias))
        hosted.arrange_weights()
        assert all(not packed.is_packed(a.same_input) for _, a in hosted.attention_layers)
        assert all(p.is_contiguous() for p in hosted.parameters())
        conv = torch.nn.Conv2d(4, 4, 3)
        x = torch.randn(1, 4, 5, 5)
        with torch.no_grad():
            assert cuda.leaves_bias(conv, x)
            one = torch.nn.Conv2d(4, 4, 1)
            assert cuda.is_product(one.double(), x.double()) and not cuda.is_product(one.float(), x), "TF32"
            assert not cuda.leaves_bias(torch.nn.Conv2d(4, 4, 3, padding_mode="circular"), x)
            assert not cuda.leaves_bias(conv, x.double()), "another dtype"
            with torch.autocast("cpu", torch.bfloat16):
                assert not cuda.leaves_bias(conv, x)
            tagged = torch.nn.Conv2d(4, 4, 3)
            tagged._parameters["weight"] = torch.nn.Parameter(tagged.weight.data).as_subclass(Tagged)
            assert not cuda.leaves_bias(tagged, x), "another class of weights"
        assert not cuda.leaves_bias(torch.nn.Conv2d(4, 4, 3), x), "gradients"


def test_neighbours_in_memory_are_not_one_tensor():
    """As an allocator may place two: a view of both would reach beyond the first one's memory."""
    memory = numpy.arange(32, dtype=numpy.float32)
    layers = [torch.nn.Linear(4, 4, bias=False) for _ in range(2)]
    for part, one in zip((memory[:16], memory[16:]), layers, strict=True):
        one.weight.data = torch.from_numpy(part).view(4, 4)
    assert layers[1].weight.data_ptr() == layers[0].weight.data_ptr() + 64
    assert not packed.is_packed(layers)
    packed.pack(layers)
    assert packed.is_packed(layers) and layers[1].weight[0, 0] == 16
    with torch.no_grad():
        assert torch.equal(packed.product(layers, torch.eye(4)), torch.cat([layer.weight.t() for layer in layers], 1))
    assert not packed.is_packed(layers[:1]) and not packed.is_packed(layers[::-1])


def test_packed_layers_compute_for_themselves_in_training(card):
    unet = build()
    with card():
        unet.arrange_weights()
        sample, text = torch.ones(2, 4, 8, 8, dtype=torch.float64), torch.ones(1, 5, 12, dtype=torch.float64)
        unet.forward_frames(sample, 3, text, 2).square().sum().backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None, name
    assert unet.attention_layers[0][1].to_q.weight.grad.abs().sum() > 0


def test_chunks_and_loras_of_a_call(card, monkeypatch):
    """What a call asks of its feed-forward layers keeps their bias in its place."""
    unet = build()
    path = next(path for path, module in unet.named_modules() if module is places(unet)["feed-forward over time"])
    generator = torch.Generator().manual_seed(2)
    out, width = unet.get_submodule(path).weight.shape
    pair = torch.randn(2, width, generator=generator), torch.randn(out, 2, generator=generator)
    calls, original = [], FeedForward.onto
    monkeypatch.setattr(FeedForward, "onto", lambda *args: calls.append(args) or original(*args))
    counts = []
    for options in ({"motion_loras": (MotionLora("a", {path: pair}, 0.5),)}, {"forward_chunking": (2, 0)}, {}):
        plain = step(unet, **options)
        with card():
            unet.arrange_weights()
            torch.testing.assert_close(step(unet, **options), plain, rtol=1e-11, atol=1e-11)
        counts.append(len(calls))
        calls.clear()
    # All but the layer that the LoRA changes, none of those in chunks, all.
    assert counts[0] == counts[2] - 1 and counts[1] == 0
