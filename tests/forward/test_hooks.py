"""Host hooks: what they see, in which order, and that what they return is used."""

import pytest
import torch

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
    skip_shapes,
)
from unet_motion import ForwardOptions, Hooks
from unet_motion.model.transformer import BasicTransformerBlock


class Recorder(Hooks):
    def __init__(self):
        self.stages, self.inputs, self.outputs, self.blocks, self.attentions = [], [], [], [], []

    def before_stage(self, kind, index):
        self.stages.append((kind, index))

    def after_input(self, hidden, index):
        self.inputs.append((index, hidden.shape))
        return hidden

    def before_output(self, hidden, skip, index):
        self.outputs.append((index, hidden.shape, skip.shape))
        return hidden, skip

    def transformer_block(self, block, tokens):
        self.blocks.append((block.layer, tokens.shape, self.stages[-1]))
        return block.run(tokens)

    def attention(self, query, key, value, heads, mask):
        self.attentions.append((query.shape, key.shape, heads, mask))
        return None


@pytest.mark.parametrize("config", [SD15, SDXL, TINY], ids=["sd15", "sdxl", "tiny"])
@torch.no_grad()
def test_identity_hooks_change_nothing_and_see_every_stage(config):
    ours, theirs = pair(config)
    inputs = make_inputs(config, batch=2, frames=3, height=9, width=7)
    hooks = Recorder()
    assert torch.equal(run_ours(ours, inputs, options=ForwardOptions(hooks=hooks)), run_ours(ours, inputs))

    shapes, _ = skip_shapes(theirs, inputs)
    ups = sum(len(block.resnets) for block in theirs.up_blocks)
    assert len(shapes) == ups
    expected = [("input", i) for i in range(len(shapes))] + [("middle", 0)] + [("output", i) for i in range(ups)]
    assert hooks.stages == expected
    assert hooks.inputs == list(enumerate(shapes))
    assert [index for index, *_ in hooks.outputs] == list(range(ups))
    assert [skip for *_, skip in hooks.outputs] == shapes[::-1]


@torch.no_grad()
def test_transformer_blocks_in_their_stages():
    ours, _ = shared_pair(SD15)
    hooks = Recorder()
    run_ours(ours, make_inputs(SD15, frames=3), options=ForwardOptions(hooks=hooks))
    assert [block for block, *_ in hooks.blocks] == [
        module
        for part in (ours.down_blocks, ours.mid_block, ours.up_blocks)
        for module in part.modules()
        if isinstance(module, BasicTransformerBlock)
    ]
    stages = [stage for *_, stage in hooks.blocks]
    assert stages == [
        *[("input", i) for i in (1, 2, 4, 5, 7, 8)],
        ("middle", 0),
        *[("output", i) for i in range(3, 12)],
    ], "the numbers are those of the original network's blocks"
    assert all(shape[0] == 3 for _, shape, _ in hooks.blocks)
    assert len(hooks.attentions) == 2 * len(hooks.blocks)


@torch.no_grad()
def test_changed_input_reaches_the_skip_only_where_it_should():
    """`after_input` changes skip and path, `after_input_skip` the path alone: seen through diffusers' residuals."""
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY)
    shapes, _ = skip_shapes(theirs, inputs)
    addition = torch.randn(shapes[-1])
    last = len(shapes) - 1

    class Both(Hooks):
        def after_input(self, hidden, index):
            return hidden + addition if index == last else hidden

    class PathOnly(Hooks):
        def after_input_skip(self, hidden, index):
            return hidden + addition if index == last else hidden

    class SkipOnly(Hooks):
        def before_output(self, hidden, skip, index):
            return hidden, skip + addition if index == 0 else skip

    path_only = run_ours(ours, inputs, options=ForwardOptions(hooks=PathOnly()))
    both = run_ours(ours, inputs, options=ForwardOptions(hooks=Both()))
    skip_only = run_ours(ours, inputs, options=ForwardOptions(hooks=SkipOnly()))
    residuals = [torch.zeros(shape) for shape in shapes]
    residuals[last] = addition
    assert_close(skip_only, run_theirs(theirs, inputs, down_block_additional_residuals=residuals))

    handle = theirs.down_blocks[-1].motion_modules[-1].register_forward_hook(lambda m, a, out: out + addition)
    assert_close(both, run_theirs(theirs, inputs))
    minus = [-residual for residual in residuals]
    assert_close(path_only, run_theirs(theirs, inputs, down_block_additional_residuals=minus))
    handle.remove()
    assert_differs(path_only, skip_only)
    assert_differs(both, path_only)


@torch.no_grad()
def test_embeddings_are_changed_before_and_after_the_added_conditioning():
    ours, theirs = pair(SDXL)
    inputs = make_inputs(SDXL)

    class Time(Hooks):
        def after_time_embedding(self, embedding):
            return embedding * 1.5

    class Whole(Hooks):
        def after_embedding(self, embedding):
            return embedding * 1.5

    time, whole = (run_ours(ours, inputs, options=ForwardOptions(hooks=hooks)) for hooks in (Time(), Whole()))
    handles = [theirs.time_embedding.register_forward_hook(lambda m, a, out: out * 1.5)]
    assert_close(time, run_theirs(theirs, inputs))
    handles.append(theirs.add_embedding.register_forward_hook(lambda m, a, out: out * 1.5))
    assert_close(whole, run_theirs(theirs, inputs))
    for handle in handles:
        handle.remove()
    assert_differs(time, whole)


@torch.no_grad()
def test_changed_middle_equals_a_residual():
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY)
    _, shape = skip_shapes(theirs, inputs)
    addition = torch.randn(shape)

    class Middle(Hooks):
        def after_middle(self, hidden):
            return hidden + addition

    result = run_ours(ours, inputs, options=ForwardOptions(hooks=Middle()))
    assert_close(result, run_theirs(theirs, inputs, mid_block_additional_residual=addition))


@torch.no_grad()
def test_replaced_attention_and_block():
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15, batch=2, tokens=6)
    keep = torch.tensor([1, 0, 1, 1, 0, 0])

    class OwnAttention(Hooks):
        def attention(self, query, key, value, heads, mask):
            q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2).double() for t in (query, key, value))
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            if mask is not None:
                scores = scores + mask
            return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2).to(query.dtype)

    options = ForwardOptions(hooks=OwnAttention())
    assert_close(run_ours(ours, inputs, options=options), run_theirs(theirs, inputs))
    short = inputs["encoder_hidden_states"][:, keep.bool()]
    masked = run_ours(ours, inputs, attention_mask=keep.expand(2, -1), options=options)
    assert_close(masked, run_theirs(theirs, inputs, encoder_hidden_states=short))

    class NoTransformer(Hooks):
        def transformer_block(self, block, tokens):
            return tokens

    skipped = run_ours(ours, inputs, options=ForwardOptions(hooks=NoTransformer()))
    for module in theirs.modules():
        if type(module).__name__ == "BasicTransformerBlock" and module.pos_embed is None:
            module.forward = lambda hidden_states, **kwargs: hidden_states
    assert_close(skipped, run_theirs(theirs, inputs))
    assert_differs(skipped, run_ours(ours, inputs))


@torch.no_grad()
def test_hooks_of_one_call_only():
    ours, _ = shared_pair(TINY)
    inputs = make_inputs(TINY)
    hooks = Recorder()
    run_ours(ours, inputs, options=ForwardOptions(hooks=hooks))
    seen = len(hooks.stages)
    run_ours(ours, inputs)
    assert len(hooks.stages) == seen > 0
