"""A network on a CPU, beyond the figure: motion modules in parts, and nothing in a step that walks or waits."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn

from unet_motion import UNetMotionModel
from unet_motion.forward.call import Call
from unet_motion.model.layer_factory import make_factory
from unet_motion.model.motion_module import MotionModule
from unet_motion.ops.feed_forward import cpu as feed_forward

MAKE = make_factory(None, None, torch.float64, None)


def channels_last(*shape):
    return torch.randn(shape, dtype=torch.float64).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch,frames,height,width", [(1, 3, 5, 7), (2, 2, 4, 3), (1, 1, 1, 1), (2, 5, 1, 6)])
def test_a_motion_module_in_parts_equals_the_whole(batch, frames, height, width, monkeypatch):
    torch.manual_seed(0)
    module = MotionModule(MAKE, 8, 2, 2, 4, 32)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, call = channels_last(batch * frames, 8, height, width), Call(batch, frames, temb=torch.empty(0))
    expected, before = module(x, call).detach(), x.clone()
    sizes, transform = [], MotionModule._transform
    monkeypatch.setattr(
        MotionModule, "_transform", lambda module, hidden, *rest: sizes.append(1) or transform(module, hidden, *rest)
    )
    for most in (1, 2 * batch * frames, 1 << 20):
        monkeypatch.setattr(feed_forward, "rows_at_once", lambda width, most=most: most)
        with torch.no_grad():
            torch.testing.assert_close(module(x, call), expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(x, before)
    pixels = height * width
    assert len(sizes) == -(-pixels // -(-2 // (batch * frames))) + -(-pixels // 4) + 1


def test_a_motion_module_is_whole_where_others_look_at_it(monkeypatch):
    monkeypatch.setattr(feed_forward, "rows_at_once", lambda width: 1)
    module, seen = MotionModule(MAKE, 8, 2, 1, 4, 32), []
    x, call = channels_last(4, 8, 3, 3), Call(2, 2, temb=torch.empty(0))

    def processor(attention, tokens, **_):
        seen.append(tokens.shape)
        return tokens

    layer = module.transformer_blocks[0].attn1.to_q
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    with torch.no_grad():
        module(x, call)
        handle.remove()
        block = module.transformer_blocks[0]
        module(x, replace(call, processors={block.attn1: processor, block.attn2: processor}))
    assert seen == [(2, 2, 9, 8), (18, 2, 8), (18, 2, 8)]


@pytest.mark.parametrize("change", ["replaced", "added", "taken away"])
def test_a_hook_on_a_layer_that_came_later_sees_all_pixels_too(monkeypatch, change):
    monkeypatch.setattr(feed_forward, "rows_at_once", lambda width: 1)
    module, seen = MotionModule(MAKE, 8, 2, 1, 4, 32), []
    x, call = channels_last(4, 8, 3, 3), Call(2, 2, temb=torch.empty(0))
    attention = module.transformer_blocks[0].attn1
    if change == "taken away":
        attention.to_q.add_module("extra", nn.Identity())
        attention.to_q.extra.register_forward_hook(lambda *_: None)
    counted = module.proj_in.forward
    module.proj_in.forward = lambda tokens: seen.append(tokens.shape[2]) or counted(tokens)
    with torch.no_grad():
        module(x, call)
        assert seen == ([9] if change == "taken away" else [1] * 9)
        seen.clear()
        if change == "replaced":
            attention.to_q = nn.Linear(8, 8, bias=False, dtype=torch.float64)
            attention.to_q.register_forward_hook(lambda *_: None)
        elif change == "added":
            attention.to_q.add_module("extra", nn.Identity())
            attention.to_q.extra.register_forward_hook(lambda *_: None)
        else:
            del attention.to_q.extra
        module(x, call)
    assert seen == ([1] * 9 if change == "taken away" else [9])


def test_a_step_neither_walks_modules_nor_inspects_signatures_nor_waits_for_values(monkeypatch):
    model = UNetMotionModel(
        block_out_channels=(128, 256), down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), cross_attention_dim=16, num_attention_heads=4,
        motion_num_attention_heads=4, layers_per_block=1,
    )  # fmt: skip
    inputs = torch.randn(2, 4, 4, 32, 32), torch.tensor(7), torch.randn(2, 9, 16)
    monkeypatch.setattr(feed_forward, "rows_at_once", lambda width: 512)
    transform, pixels = MotionModule._transform, []

    def noted(module, hidden, *rest):
        pixels.append(hidden.shape[2])
        return transform(module, hidden, *rest)

    def forbidden(*_, **__):
        raise AssertionError("a step must not ask for this")

    monkeypatch.setattr(MotionModule, "_transform", noted)
    with torch.no_grad():
        first = model(*inputs).sample
        for name in ("modules", "named_modules", "children", "named_children", "parameters", "named_parameters"):
            monkeypatch.setattr(nn.Module, name, forbidden)
        for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
            monkeypatch.setattr(torch.Tensor, name, forbidden)
        monkeypatch.setattr(inspect, "signature", forbidden)
        assert torch.equal(model(*inputs).sample, first)
    assert min(pixels) < 16 * 16  # in parts, for which hooks are looked for
