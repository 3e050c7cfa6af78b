"""Nothing that somebody else can hold is overwritten."""

from dataclasses import replace

import pytest
import torch

from unet_motion import kernels
from unet_motion.forward.call import Call
from unet_motion.model import motion_module, resnet, transformer
from unet_motion.model.layer_factory import make_factory
from unet_motion.model.motion_module import MotionModule
from unet_motion.ops import group_norm, layer_norm
from unet_motion.ops import layer as in_place

MAKE = make_factory(None, None, torch.float64, None)
# In place or not, with gradients or not, torch may take other code for the same formula.
ROUNDING = {"rtol": 1e-13, "atol": 1e-13}


def make_layers():
    torch.manual_seed(0)
    first = resnet.ResnetBlock(MAKE, 8, 16, 12, 4, 1e-5, "silu")
    spatial = transformer.SpatialTransformer(MAKE, 16, 2, 2, 6, 4, use_linear_projection=False)
    module = MotionModule(MAKE, 16, 2, 2, 4, 32)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return torch.nn.ModuleList([first, spatial, module])


@pytest.fixture
def call():
    generator = torch.Generator().manual_seed(1)
    text, temb = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 5, 6), (2, 12)))
    return Call(2, 3, temb=temb, text=text)


@pytest.fixture
def pictures():
    x = torch.randn(6, 8, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x.to(memory_format=torch.channels_last)


def run(stack, x, call):
    with torch.no_grad():
        for layer in stack:
            x = layer(x, call)
    return x


def test_overwriting_changes_no_value_and_no_input(call, pictures, monkeypatch):
    stack, before = make_layers(), pictures.clone()
    out = run(stack, pictures, call)
    assert torch.equal(pictures, before)
    for module in (resnet, transformer, motion_module, group_norm, layer_norm):
        monkeypatch.setattr(module, "overwritable", lambda *layers: False)
    torch.testing.assert_close(run(stack, pictures, call), out, **ROUNDING)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (4, 3)])
def test_gradients_on_or_off_give_the_same_values(call, size):
    stack = make_layers().requires_grad_(False)
    x = torch.randn(6, 8, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last)
    out = run(stack, x, call)
    for layer in stack:
        x = layer(x, call)
    torch.testing.assert_close(x, out, **ROUNDING)


def test_what_hooks_have_seen_stays_as_it_was(call, pictures):
    stack, seen = make_layers(), []

    def remember(module, args, out):
        seen.extend((t, t.clone()) for t in (*args, out) if isinstance(t, torch.Tensor))

    plain = run(stack, pictures, call)
    for module in stack.modules():
        module.register_forward_hook(remember)
    torch.testing.assert_close(run(stack, pictures, call), plain, **ROUNDING)
    assert len(seen) > 60
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)


def test_what_a_processor_gives_and_takes_stays_as_it_was(call, pictures):
    stack, seen = make_layers(), []

    def processor(attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        out = hidden_states.roll(1, dims=1) / 2
        seen.extend((t, t.clone()) for t in (hidden_states, out))
        return out

    run(stack, pictures, replace(call, processors=dict.fromkeys(stack.modules(), processor)))
    assert len(seen) == 16
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)


def test_gradients_stop_it(call, pictures):
    norm = torch.nn.LayerNorm(4)
    assert not in_place.overwritable(norm)
    with torch.no_grad():
        assert in_place.overwritable(norm)
        tensor, other = torch.ones(2, dtype=torch.float16), torch.ones(2)
        assert in_place.add_into(tensor, other, inplace=True).dtype == torch.float32 and tensor[0] == 1
        assert in_place.add_into(other, other, inplace=True) is other


@pytest.mark.parametrize("mode", kernels.MODES)
def test_a_hook_before_a_norm_is_called(mode):
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    norms = torch.nn.LayerNorm(3, dtype=torch.float64), torch.nn.GroupNorm(2, 4, dtype=torch.float64)
    ways = (
        lambda: layer_norm.add_layer_norm(norms[0], x)[1],
        lambda: group_norm.scoped_group_norm(norms[1], x, 1, "frame"),
    )
    with torch.no_grad(), kernels.use(mode):
        plain = [way() for way in ways]
        for norm in norms:
            norm.register_forward_pre_hook(lambda module, args: (args[0] ** 3,))
        for norm, way, before in zip(norms, ways, plain, strict=True):
            torch.testing.assert_close(way(), norm(x), rtol=1e-12, atol=1e-12)
            assert not torch.allclose(way(), before)
