"""A step in two parts: against the whole network, and against one whose deep part's result is put in from outside."""

import pytest
import torch

from tests.reference import TINY, randomise
from tests.runtime.recorder import Recorder
from tests.runtime.test_cuda_graphs import FRAMES, inputs
from unet_motion import ForwardOptions, FreeU, Hooks, StepGraphs, UNetMotionModel, Views
from unet_motion.runtime.step_parts import StepParts, most_layers

WAYS = {
    "plain": {},
    "freeu": {"freeu": FreeU(0.9, 0.2, 1.2, 1.4)},
    "views": {"views": Views.of([([0, 1], [1.0, 0.5]), ([1, 2], [0.5, 1.0])])},
    "parts": {"frames_at_once": 2},
}


@pytest.fixture(scope="module")
def unet():
    return randomise(UNetMotionModel(**{**TINY, "layers_per_block": 2})).eval()


def residuals(unet, sample):
    """A ControlNet's, one for each skip and the middle."""
    shapes = []

    class Watch(Hooks):
        def before_output(self, hidden, skip, index):
            shapes.append(skip.shape)
            return hidden, skip

        def after_middle(self, hidden):
            shapes.append(hidden.shape)
            return hidden

    unet.forward_frames(*inputs(0), FRAMES, options=ForwardOptions(hooks=Watch()))
    middle, *skips = (torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes))
    return {"down_block_additional_residuals": skips[::-1], "mid_block_additional_residual": middle}


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("controlled", [False, True])
def test_both_parts_of_one_step_are_the_step_bit_for_bit(unet, way, controlled):
    given, options = inputs(1), ForwardOptions(**WAYS[way])
    control = residuals(unet, given[0]) if controlled else {}
    expected = unet.forward_frames(*given, FRAMES, options=options, **control)
    for layers in (None, *range(1, most_layers(unet) + 1)):
        parts = StepParts(unet, layers)
        out, deep = parts.full(*given, FRAMES, options=options, **control)
        before = deep.clone()
        assert torch.equal(out, expected)
        assert torch.equal(parts.shallow(*given, FRAMES, deep=deep, options=options, **control), expected)
        assert torch.equal(deep, before)


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_last_layers_alone_are_a_network_with_another_deep_part(unet, layers):
    """The deep part's result is put into the plain network by hooks on its layers."""
    first, second = inputs(1), inputs(2)
    control = residuals(unet, first[0])
    parts = StepParts(unet, layers)
    _, deep = parts.full(*first, FRAMES, **control)
    found = parts.shallow(*second, FRAMES, deep=deep, **control)

    def put_in(module, args):
        joined = args[0]
        assert joined.shape[1] > deep.shape[1]
        return (torch.cat([deep, joined[:, deep.shape[1] :]], 1), *args[1:])

    resnet = unet.up_blocks[-1].resnets[most_layers(unet) - layers]
    handle = resnet.register_forward_pre_hook(put_in)
    try:
        expected = unet.forward_frames(*second, FRAMES, **control)
    finally:
        handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    whole = unet.forward_frames(*second, FRAMES, **control)
    assert (whole - expected).abs().max() > 1e-3 * expected.abs().max()


@torch.no_grad()
def test_the_last_layers_compute_none_of_the_deep_part(unet):
    parts = StepParts(unet)
    _, deep = parts.full(*inputs(1), FRAMES)
    deep_part = [unet.mid_block, *unet.up_blocks[:-1], *unet.down_blocks[1:]]
    refuse = [
        module.register_forward_pre_hook(lambda *_: pytest.fail("a layer of the deep part ran"))
        for block in deep_part
        for module in block.modules()
    ]
    try:
        parts.shallow(*inputs(2), FRAMES, deep=deep)
    finally:
        for handle in refuse:
            handle.remove()


def test_hooks_of_the_last_layers_hear_the_stages_of_the_whole_network(unet):
    class Watch(Hooks):
        def __init__(self):
            self.seen = []

        def before_stage(self, kind, index):
            self.seen.append((kind, index))

    whole, end = Watch(), Watch()
    parts = StepParts(unet, 2)
    _, deep = parts.full(*inputs(1), FRAMES, options=ForwardOptions(hooks=whole))
    parts.shallow(*inputs(1), FRAMES, deep=deep, options=ForwardOptions(hooks=end))
    last = max(index for kind, index in whole.seen if kind == "output")
    assert end.seen == [("input", 0), ("input", 1), ("output", last - 1), ("output", last)]


@torch.no_grad()
def test_each_part_is_one_graph(unet):
    recorder, parts = Recorder(), StepParts(unet)
    full, shallow = (StepGraphs(unet, recorder=recorder, step=step) for step in (parts.full, parts.shallow))
    kept = []
    for seed in range(3):
        out, deep = full(*inputs(seed), FRAMES)
        expected = parts.full(*inputs(seed), FRAMES)
        torch.testing.assert_close((out, deep), expected, rtol=1e-5, atol=1e-5)
        found = shallow(*inputs(seed + 5), FRAMES, deep=deep)
        torch.testing.assert_close(
            found, parts.shallow(*inputs(seed + 5), FRAMES, deep=expected[1]), rtol=1e-5, atol=1e-5
        )
        kept.append((deep, deep.clone()))
    assert recorder.captured == 2 and all(torch.equal(*pair) for pair in kept)


def test_layers_that_the_block_does_not_have_are_refused(unet):
    most = most_layers(unet)
    for layers in (0, most + 1):
        with pytest.raises(ValueError, match=f"`layers` is {layers}, expected 1 to {most}"):
            StepParts(unet, layers)
