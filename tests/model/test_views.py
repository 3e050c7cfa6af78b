"""Windows inside motion modules against diffusers' FreeNoise, and layers that see a few frames at a time."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.reference import (
    SD15,
    SDXL,
    TINY,
    assert_close,
    assert_differs,
    make_inputs,
    pair,
    run_ours,
    run_theirs,
    shared_pair,
)
from unet_motion import ContextWindows, ForwardOptions, FreeU, UNetMotionModel, Views
from unet_motion.forward.call import Call
from unet_motion.forward.lora import MotionLora, lora_terms
from unet_motion.forward.motion_amount import MotionAmount
from unet_motion.forward.views import view_calls
from unet_motion.model.transformer import BasicTransformerBlock

V1 = dict(resnet_norm_scope="clip")


def views_of(frames, length=4, overlap=2, fuse="pyramid", schedule="standard_static", step=0):
    return Views.of(ContextWindows(length, overlap, schedule=schedule, fuse=fuse).plan(frames, step))


def free_noise_pair(config, length, stride, fuse):
    """Our model, and diffusers' with its FreeNoise blocks."""
    mixin = pytest.importorskip("diffusers.pipelines.free_noise_utils").AnimateDiffFreeNoiseMixin()
    ours, theirs = pair(config)
    table = SimpleNamespace(config=SimpleNamespace(motion_max_seq_length=32))
    mixin.unet, mixin.motion_adapter, mixin.device, mixin.dtype = theirs, table, torch.device("cpu"), torch.float32
    with torch.no_grad():
        mixin.enable_free_noise(length, stride, fuse)
    return ours, theirs.eval()


@torch.no_grad()
@pytest.mark.parametrize(("config", "fuse"), [(TINY, "pyramid"), (TINY, "flat"), (SD15, "pyramid"), (SDXL, "pyramid")])
def test_views_are_diffusers_free_noise(config, fuse):
    ours, theirs = free_noise_pair(config, 4, 2, fuse)
    inputs = make_inputs(config, batch=2, frames=8)
    found = run_ours(ours, inputs, options=ForwardOptions(views=views_of(8, 4, 2, fuse)))
    assert_close(found, run_theirs(theirs, inputs))
    assert_differs(found, run_ours(ours, inputs))


@torch.no_grad()
def test_diffusers_free_noise_loses_the_last_frames_of_some_lengths():
    """A block that adds nothing gives back its input: ours does, at every length."""
    block_type = pytest.importorskip("diffusers.models.attention").FreeNoiseTransformerBlock
    theirs = block_type(
        8, 2, 4, double_self_attention=True, positional_embeddings="sinusoidal", num_positional_embeddings=32,
        context_length=8, context_stride=4,
    )  # fmt: skip
    (ours,) = UNetMotionModel(**TINY).down_blocks[0].motion_modules[0].transformer_blocks
    for module in (theirs, ours):
        for name, parameter in module.named_parameters():
            parameter.data.zero_() if "norm" not in name else parameter.data.fill_(1)

    for frames in range(8, 23):
        tokens = torch.rand(1, frames, 3, 8) + 1
        call = Call(1, frames, temb=torch.empty(0))
        views = view_calls(call, views_of(frames, 8, 4), torch.device("cpu"))
        torch.testing.assert_close(ours(tokens, Call(1, frames, temb=torch.empty(0), views=views)), tokens)
    lost = theirs(torch.ones(1, 18, 8))
    assert lost[0, -1, 0] < 0.6 and lost[0, 0, 0] == 1


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 4])
def test_one_view_of_all_frames_is_the_usual_call(frames):
    ours, _ = shared_pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=frames)
    assert_close(run_ours(ours, inputs, options=ForwardOptions(views=views_of(frames))), run_ours(ours, inputs))


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["standard_uniform", "looped_uniform", "batched"])
def test_motion_modules_give_the_weighted_mean_over_the_windows(schedule):
    """One module, written out: each window alone through its attentions, then all frames through the rest."""
    ours, _ = shared_pair(TINY)
    block = ours.down_blocks[0].motion_modules[0].transformer_blocks[0]

    windows, tokens = ContextWindows(5, 2, schedule=schedule), torch.randn(2, 13, 6, 8)
    plan = windows.plan(13, 3)
    mean = torch.zeros_like(tokens)
    for window, weights in plan:
        part, call = tokens[:, window], Call(2, len(window), temb=torch.empty(0))
        table = block.pos_embed.pe[0, : len(window), None]
        part = part + block.attn1.temporal(block.norm1(part) + table, call)
        part = part + block.attn2.temporal(block.norm2(part) + table, call)
        mean[:, window] += part * torch.tensor(weights)[:, None, None]
    call = Call(2, 13, temb=torch.empty(0))
    expected = mean + block.ff(block.norm3(mean))
    views = view_calls(call, Views.of(plan), tokens.device)
    torch.testing.assert_close(block(tokens, Call(2, 13, temb=torch.empty(0), views=views)), expected)


@torch.no_grad()
def test_a_clip_longer_than_the_position_table():
    ours = pair({**TINY, "motion_max_seq_length": 4})[0]
    inputs = make_inputs(TINY, frames=9)
    with pytest.raises(ValueError, match="9 frames were given, but the motion modules' position table has 4 rows"):
        run_ours(ours, inputs)
    assert run_ours(ours, inputs, options=ForwardOptions(views=views_of(9))).isfinite().all()
    with pytest.raises(ValueError, match="5 frames were given, but the motion modules' position table has 4 rows"):
        run_ours(ours, inputs, options=ForwardOptions(views=views_of(9, 5)))
    with pytest.raises(ValueError, match="`views` are for 8 frames, but the clip has 9"):
        run_ours(ours, inputs, options=ForwardOptions(views=views_of(8)))


@torch.no_grad()
def test_positions_are_those_of_a_window():
    ours, _ = shared_pair(TINY)
    inputs = make_inputs(TINY, frames=7)
    moved = ForwardOptions(views=views_of(7, 4, 2), frame_positions=torch.tensor([9, 3, 1, 20]))
    expected = pair(TINY)[0]
    for module in expected.modules():
        if hasattr(module, "pe"):
            module.pe[:, :4] = module.pe[:, [9, 3, 1, 20]].clone()
    plain = ForwardOptions(views=views_of(7, 4, 2))
    assert_close(run_ours(ours, inputs, options=moved), run_ours(expected, inputs, options=plain))


def loras(model, strength):
    generator = torch.Generator().manual_seed(8)
    layers = {}
    for path, module in model.named_modules():
        if ".motion_modules." in path and isinstance(module, nn.Linear):
            shape = module.weight.shape
            layers[path] = (
                torch.randn(2, shape[1], generator=generator) * 0.3, torch.randn(shape[0], 2, generator=generator) * 0.3
            )  # fmt: skip
    return [MotionLora("test", layers, strength)]


@torch.no_grad()
def test_strengths_over_the_frames_follow_their_frames():
    """Windows without overlap are clips of their own in the motion modules."""
    ours, _ = shared_pair(TINY)
    inputs, strength = make_inputs(TINY, batch=2, frames=8), torch.rand(2, 8)
    block = ours.down_blocks[0].motion_modules[0].transformer_blocks[0]
    given = loras(ours, strength)

    tokens = torch.randn(2, 8, 6, 8)

    def call(part, frames):
        lora = lora_terms(loras(ours, part), 2, frames, ours.motion_layer, tokens)
        return Call(2, frames, temb=torch.empty(0), lora=lora)

    whole = call(strength, 8)
    views = view_calls(whole, views_of(8, 4, 0, schedule="batched"), tokens.device)
    found = block(tokens, Call(2, 8, temb=torch.empty(0), lora=whole.lora, views=views))
    halves = [block(tokens[:, at : at + 4], call(strength[:, at : at + 4], 4)) for at in (0, 4)]
    torch.testing.assert_close(found, torch.cat(halves, 1))
    options = ForwardOptions(views=views_of(8), motion_loras=given)
    without = ForwardOptions(views=views_of(8))
    assert_differs(run_ours(ours, inputs, options=options), run_ours(ours, inputs, options=without))


@torch.no_grad()
def test_motion_amounts_over_the_frames_follow_their_frames():
    ours, _ = shared_pair(TINY)
    inputs, scale = make_inputs(TINY, batch=2, frames=8), torch.rand(2, 8) + 0.5
    views = views_of(8, 4, 0, schedule="batched")
    block = ours.down_blocks[0].motion_modules[0].transformer_blocks[0]
    tokens, amounts = torch.randn(2, 8, 6, 8), scale[:, :, None, None]
    whole = Call(2, 8, temb=torch.empty(0))
    found = block(tokens, replace(whole, views=view_calls(whole, views, tokens.device)), amounts)
    part = Call(2, 4, temb=torch.empty(0))
    halves = [block(tokens[:, at : at + 4], part, amounts[:, at : at + 4]) for at in (0, 4)]
    torch.testing.assert_close(found, torch.cat(halves, 1))
    options = ForwardOptions(views=views_of(8), motion_amounts=[MotionAmount(scale=scale)])
    without = ForwardOptions(views=views_of(8))
    assert_differs(run_ours(ours, inputs, options=options), run_ours(ours, inputs, options=without))


@pytest.mark.parametrize(
    ("windows", "weights", "said"),
    [
        (((0, 1), (1, 2)), ((1.0, 0.5), (0.5, 0.9)), "weights of `views` for frame 2 add up to 0.9, expected 1"),
        (((0, 2),), ((1.0, 1.0),), "weights of `views` for frame 1 add up to 0, expected 1"),
        (((0, 0),), ((0.5, 0.5),), r"window 0 of `views` is \[0, 0\] with 2 weights, expected different frames"),
        (((0, 1),), ((1.0,),), "with 1 weights"),
        (((-1, 0),), ((1.0, 1.0),), r"window 0 of `views` is \[-1, 0\]"),
        (((0, 1),), (), "`views` have 1 windows and 0 lists of weights"),
    ],
)
def test_views_that_are_no_mean_are_refused(windows, weights, said):
    with pytest.raises(ValueError, match=said):
        Views(windows, weights)


def test_views_have_a_gradient():
    ours = pair(TINY)[0]
    inputs = make_inputs(TINY, frames=6)
    inputs["sample"].requires_grad_()
    run_ours(ours, inputs, options=ForwardOptions(views=views_of(6))).square().sum().backward()
    assert inputs["sample"].grad.abs().sum() > 0 and ours.down_blocks[0].motion_modules[0].proj_in.weight.grad.any()


# a few frames at a time


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, 5, 8])
@pytest.mark.parametrize(("config", "text"), [(TINY, "clip"), (TINY, "frame"), (SDXL, "clip"), (SD15, "frame")])
def test_parts_of_the_frames_give_the_same_values(config, text, size):
    ours, _ = shared_pair(config)
    inputs = make_inputs(config, batch=2, frames=5, text_rows=text)
    found = run_ours(ours, inputs, options=ForwardOptions(frames_at_once=size))
    assert_close(found, run_ours(ours, inputs))


@torch.no_grad()
def test_parts_with_views_odd_sizes_free_u_and_a_timestep_for_each_frame():
    ours, _ = shared_pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=7, height=9, width=7)
    inputs["timestep"] = torch.randint(0, 1000, (14,))
    chosen = {"views": views_of(7), "freeu": FreeU(0.9, 0.2, 1.2, 1.4)}
    expected = run_ours(ours, inputs, options=ForwardOptions(**chosen))
    assert_close(run_ours(ours, inputs, options=ForwardOptions(**chosen, frames_at_once=3)), expected)


@torch.no_grad()
def test_layers_between_motion_modules_see_no_more_frames():
    ours = pair(SD15)[0]
    rows, watched = [], (BasicTransformerBlock, nn.Conv2d)

    def note(module, arguments):
        rows.append(len(arguments[0]))

    for name, module in ours.named_modules():
        if isinstance(module, watched) and name not in ("conv_in", "conv_out"):
            module.register_forward_pre_hook(note)
    run_ours(ours, make_inputs(SD15, batch=2, frames=9), options=ForwardOptions(frames_at_once=2))
    assert max(rows) == 4 and len(rows) > 100


def test_what_parts_do_not_go_with_is_named():
    from unet_motion import Hooks

    with pytest.raises(ValueError, match="`frames_at_once` is 0, expected a whole number of at least 1, or None"):
        ForwardOptions(frames_at_once=0)
    with pytest.raises(ValueError, match="`frames_at_once` does not go with `hooks`"):
        ForwardOptions(frames_at_once=2, hooks=Hooks())
    with pytest.raises(TypeError, match="`views` must be a Views object or None, found list"):
        ForwardOptions(views=[])
    ours, _ = shared_pair(TINY)
    with pytest.raises(ValueError, match="`frames_at_once` is 2, but the resnets' norms are over the whole clip"):
        run_ours(ours, make_inputs(TINY), options=ForwardOptions(frames_at_once=2, **V1))
