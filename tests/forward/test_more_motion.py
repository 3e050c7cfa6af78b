"""Several motion modules at once in float64, against one module, and against a sum by hooks on an untouched UNet."""

import pytest
import torch

from tests.formats.files import randomise, relative_error
from tests.forward.test_motion_amounts import CLIPS, FRAMES, SIZE, made
from tests.forward.test_options import Sharper
from unet_motion import ForwardOptions, MoreMotion, MotionAdapter, MotionAmount, StepGraphs, Views
from unet_motion.model.motion_module import MotionModule
from unet_motion.sampling.windowed import options_of


def adapter(unet, seed=7):
    """Other motion modules for the places of a UNet."""
    torch.manual_seed(seed)
    config = unet.config
    own = MotionAdapter(
        block_out_channels=config.block_out_channels, motion_layers_per_block=config.layers_per_block,
        motion_num_attention_heads=config.motion_num_attention_heads,
        use_motion_mid_block=config.use_motion_mid_block,
    )  # fmt: skip
    return randomise(own).double()


def copied(unet):
    """An adapter with the UNet's own weights."""
    found = adapter(unet)
    own = unet.state_dict()
    found.load_state_dict({name: own[name] for name in found.state_dict()})
    return found


@pytest.fixture(scope="module")
def unet():
    return made()


def run(unet, *more, amounts=(), **options):
    generator = torch.Generator().manual_seed(4)
    sample = torch.randn(CLIPS, 4, FRAMES, *SIZE, generator=generator, dtype=torch.float64)
    text = torch.randn(CLIPS, 5, 24, generator=generator, dtype=torch.float64)
    options = ForwardOptions(motion_amounts=amounts, more_motion=more, **options)
    with torch.no_grad():
        return unet(sample, 300, text, options=options).sample


def half(value=0.5):
    return (MotionAmount(effect=value),)


def by_hooks(unet, other, effect, scope):
    """What the UNet gives where a hook on each module adds what another module makes of the module's input."""
    from unet_motion.forward.call import Call, Settings

    places = dict(other.named_modules())
    call = Call(CLIPS, FRAMES, torch.zeros(1, dtype=torch.float64), Settings(motion_norm_scope=scope))
    handles = []
    for path, module in unet.named_modules():
        if isinstance(module, MotionModule):

            def add(_, inputs, out, mine=places[path]):
                x = inputs[0]
                return out + effect * (mine(x, call) - x)

            handles.append(module.register_forward_hook(add))
    try:
        return run(unet)
    finally:
        for handle in handles:
            handle.remove()


def test_two_equal_modules_at_half_are_one_and_one_alone_is_what_it_was(unet):
    plain = run(unet)
    same = copied(unet)
    halves = run(unet, MoreMotion(same, half()), amounts=half())
    assert relative_error(halves, plain) < 1e-12
    thirds = run(unet, MoreMotion(same, half(0.25)), MoreMotion(same, half(0.5)), amounts=half(0.25))
    assert relative_error(thirds, plain) < 1e-12
    assert torch.equal(run(unet, MoreMotion(same, half(0.0))), plain)
    assert relative_error(run(unet, MoreMotion(same), amounts=half(0.0)), plain) < 1e-12
    assert relative_error(run(unet, MoreMotion(same)), plain) > 1e-3


@pytest.mark.parametrize("scope", ["frame", "clip"])
def test_another_module_adds_what_it_makes_of_the_same_input(unet, scope):
    other = adapter(unet)
    found = run(unet, MoreMotion(other, half(0.7), scope))
    assert relative_error(found, by_hooks(unet, other, 0.7, scope)) < 1e-12
    assert (
        relative_error(found, run(unet, MoreMotion(other, half(0.7), "clip" if scope == "frame" else "frame"))) > 1e-6
    )


def test_frames_blocks_and_windows_are_each_modules_own(unet):
    other = adapter(unet)
    effect = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    found = run(unet, MoreMotion(other, [MotionAmount(effect=effect, blocks=["up_blocks"])]))
    whole = run(unet, MoreMotion(other, [MotionAmount(effect=effect)]))
    assert relative_error(found, whole) > 1e-6 and relative_error(found, run(unet)) > 1e-6
    views = Views.of([([0, 1, 2], [1.0, 1.0, 1.0])])
    assert relative_error(run(unet, MoreMotion(other), views=views), run(unet, MoreMotion(other))) < 1e-12
    cut = options_of(ForwardOptions(more_motion=[MoreMotion(other, [MotionAmount(effect=effect)])]), [[1, 2]], 3, 2)
    assert cut.more_motion[0].adapter is other
    assert cut.more_motion[0].amounts[0].effect.tolist() == [[0.5, 1.0], [0.5, 1.0]]


@pytest.mark.parametrize("pattern", ["*.motion_modules.*", "down_blocks.0.motion_modules.*.attn1"])
def test_processors_that_a_call_chooses_are_those_of_further_modules_too(unet, pattern):
    chosen = {pattern: Sharper()}
    alone = run(unet, attn_processors=chosen)
    beside = run(unet, MoreMotion(copied(unet)), amounts=half(0.0), attn_processors=chosen)
    assert relative_error(beside, alone) < 1e-12 and relative_error(alone, run(unet)) > 1e-5


def test_gradients_are_those_without_checkpointing(unet):
    other = adapter(unet).requires_grad_(True)
    found = []
    for checkpointing in (False, True):
        unet.gradient_checkpointing = checkpointing
        other.zero_grad()
        generator = torch.Generator().manual_seed(4)
        sample = torch.randn(1, 4, FRAMES, *SIZE, generator=generator, dtype=torch.float64)
        text = torch.randn(1, 5, 24, generator=generator, dtype=torch.float64)
        unet(sample, 3, text, options=ForwardOptions(more_motion=[MoreMotion(other)])).sample.square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in other.parameters() if p.grad is not None]))
    unet.gradient_checkpointing = False
    assert found[0].abs().max() > 0 and relative_error(found[1], found[0]) < 1e-9


def test_what_does_not_fit_is_named(unet):
    with pytest.raises(ValueError, match="`motion_norm_scope` is 'video', expected 'frame' or 'clip'"):
        MoreMotion(adapter(unet), motion_norm_scope="video")
    with pytest.raises(ValueError, match="`adapter` brings layers for pictures"):
        MoreMotion(MotionAdapter(block_out_channels=(32, 64), conv_in_channels=9))
    wide = MotionAdapter(block_out_channels=(64, 64))
    with pytest.raises(ValueError, match="has 64 channels in down_blocks.0.* but this UNet has 32 there"):
        run(unet, MoreMotion(wide.double()))
    deep = MotionAdapter(block_out_channels=(32, 64, 64))
    with pytest.raises(ValueError, match="`more_motion` has down_blocks.2.*, where this UNet has no motion module"):
        run(unet, MoreMotion(deep.double()))
    short = MotionAdapter(block_out_channels=(32, 64), motion_max_seq_length=2)
    with pytest.raises(ValueError, match="3 frames were given, but .* has 2 rows"):
        run(unet, MoreMotion(short.double()))
    with torch.no_grad():
        graphs = StepGraphs(unet, recorder=lambda work, device: None)
        options = ForwardOptions(more_motion=[MoreMotion(adapter(unet))])
        assert "further motion modules" in graphs.declines(torch.zeros(1), options)


def test_no_graph_is_captured_of_modules_that_lie_outside_of_the_model(unet):
    graphs = StepGraphs(unet, recorder=object())  # which it would capture with
    sample = torch.zeros(CLIPS, 4, FRAMES, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        assert graphs.declines(sample, ForwardOptions()) is None
        found = graphs.declines(sample, ForwardOptions(more_motion=(MoreMotion(copied(unet)),)))
    assert "further motion modules" in found
