"""Scale and effect of motion modules in float64, against hooks that restate what they mean on an untouched UNet."""

import pytest
import torch
import torch.nn.functional as F

from tests.formats.files import randomise, relative_error
from unet_motion import ForwardOptions, MotionAmount, UNetMotionModel
from unet_motion.model.motion_module import MotionModule
from unet_motion.sampling.windowed import options_of

FRAMES, CLIPS, SIZE = 3, 2, (4, 6)


def made():
    torch.manual_seed(0)
    unet = UNetMotionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=24,
    )
    return randomise(unet).double()


def small():
    """Of one level, for what takes a compiler's time."""
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlockMotion",), up_block_types=("UpBlockMotion",), layers_per_block=1)
    unet = UNetMotionModel(block_out_channels=(32,), cross_attention_dim=24, use_motion_mid_block=False, **blocks)
    return randomise(unet).double()


@pytest.fixture(scope="module")
def unet():
    return made()


def run(unet, *amounts, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(4)
    sample = torch.randn(CLIPS, 4, FRAMES, *SIZE, generator=generator).to(dtype)
    text = torch.randn(CLIPS, 5, 24, generator=generator).to(dtype)
    with torch.no_grad():
        return unet(sample, 300, text, options=ForwardOptions(motion_amounts=amounts, **options)).sample


def rows_of(value, height, width):
    """A value as (B, F, H*W, 1): numbers, over frames, clips and pixels."""
    value = torch.as_tensor(value, dtype=torch.float64)
    if value.dim() in (0, 1):
        value = value.expand(CLIPS, FRAMES)
    if value.dim() == 2:
        return value[:, :, None, None].expand(CLIPS, FRAMES, height * width, 1)
    maps = value.expand(CLIPS, FRAMES, *value.shape[-2:])
    resized = F.interpolate(maps, (height, width), mode="bilinear")
    return resized.reshape(CLIPS, FRAMES, height * width, 1)


def by_definition(unet, *amounts):
    """What the UNet gives where hooks multiply the keys, and blend each module's output with its input."""
    handles, sizes = [], {}
    for path, module in unet.named_modules():
        if not isinstance(module, MotionModule):
            continue
        mine = [(s, e) for s, e, block in amounts if not block or path == block or path.startswith(f"{block}.")]

        def entering(module, arguments):
            sizes["now"] = arguments[0].shape[-2:]

        def blended(module, arguments, out, mine=mine):
            x = arguments[0]
            for _, effect in mine:
                share = rows_of(effect, *x.shape[-2:]).reshape(len(x), 1, *x.shape[-2:])
                out = x * (1 - share) + out * share
            return out

        def keys(layer, arguments, out, mine=mine):
            for scale, _ in mine:
                out = out * rows_of(scale, *sizes["now"])
            return out

        handles += [module.register_forward_pre_hook(entering), module.register_forward_hook(blended)]
        for block in module.transformer_blocks:
            handles += [attention.to_k.register_forward_hook(keys) for attention in (block.attn1, block.attn2)]
    out = run(unet)
    for handle in handles:
        handle.remove()
    return out


PER_FRAME = torch.tensor([0.2, 1.0, 1.7], dtype=torch.float64)
PER_CLIP = torch.tensor([[0.0, 0.5, 1.5], [2.0, 0.25, 1.0]], dtype=torch.float64)
MAPS = torch.rand(FRAMES, 5, 7, generator=torch.Generator().manual_seed(1)).double() * 2
CLIP_MAPS = torch.rand(CLIPS, FRAMES, *SIZE, generator=torch.Generator().manual_seed(2)).double() * 2
CASES = {
    "numbers": [(1.14, 0.7, "")],
    "per frame": [(PER_FRAME, PER_FRAME.flip(0), "")],
    "per frame of each clip": [(PER_CLIP, PER_CLIP.flip(0), "")],
    "by maps": [(MAPS, MAPS.flip(0), "")],
    "by maps of each clip": [(CLIP_MAPS, CLIP_MAPS.flip(1), "")],
    "several, by block": [(PER_FRAME, 0.5, "up_blocks"), (1.3, MAPS, ""), (0.5, 0.0, "down_blocks.0.motion_modules.1")],
}


@pytest.mark.parametrize("case", CASES)
def test_scale_and_effect_are_those_of_their_definition(unet, case):
    amounts = CASES[case]
    given = [MotionAmount(scale, effect, (block,) if block else ()) for scale, effect, block in amounts]
    expected = by_definition(unet, *amounts)
    assert relative_error(run(unet, *given), expected) < 1e-12
    assert relative_error(run(unet), expected) > 1e-3
    for part in (0, 1):
        alone = [tuple(1.0 if i == 1 - part else v for i, v in enumerate(a[:2])) + a[2:] for a in amounts]
        one = run(unet, *(MotionAmount(s, e, (b,) if b else ()) for s, e, b in alone))
        assert relative_error(one, by_definition(unet, *alone)) < 1e-12 and relative_error(one, expected) > 1e-5


def test_one_changes_no_bit_and_no_effect_is_a_unet_without_motion():
    unet = made().float()
    plain = run(unet, dtype=torch.float32)
    ones = (torch.ones(FRAMES), torch.ones(CLIPS, FRAMES), torch.ones(FRAMES, 2, 3), torch.tensor(1.0), 1.0, 1)
    for one in ones:
        assert torch.equal(run(unet, MotionAmount(one, one), dtype=torch.float32), plain)
    still = made().float()
    for _, module in still.motion_modules_at:
        module.proj_out.weight.data.zero_()
        module.proj_out.bias.data.zero_()
    for zero in (0.0, torch.zeros(FRAMES)):
        assert torch.equal(run(unet, MotionAmount(effect=zero), dtype=torch.float32), run(still, dtype=torch.float32))


def test_a_frames_effect_is_that_of_a_constant_for_the_clip(unet):
    """In one module; the next one reads all frames."""
    path, module = unet.motion_modules_at[0]
    seen = {}
    handle = module.register_forward_hook(lambda m, arguments, out: seen.update(out=out.clone()))
    first = (path,)
    run(unet, MotionAmount(effect=PER_FRAME, blocks=first))
    together = seen["out"].unflatten(0, (CLIPS, FRAMES))
    for frame, value in enumerate(PER_FRAME.tolist()):
        run(unet, MotionAmount(effect=value, blocks=first))
        alone = seen["out"].unflatten(0, (CLIPS, FRAMES))[:, frame]
        torch.testing.assert_close(together[:, frame], alone, atol=1e-12, rtol=1e-12)
    handle.remove()


@pytest.mark.parametrize("form", ["numbers", "frames", "clips", "pixels", "pixels of clips"])
def test_parts_of_the_pixels_fused_products_and_chunks_give_the_same(form, monkeypatch):
    unet = made()
    values = {"numbers": 0.7, "frames": PER_FRAME, "clips": PER_CLIP, "pixels": MAPS, "pixels of clips": CLIP_MAPS}
    amount = MotionAmount(values[form], CLIP_MAPS)
    expected = run(unet, amount)
    assert relative_error(run(unet, amount, forward_chunking=(5, 0)), expected) < 1e-12
    monkeypatch.setattr("unet_motion.model.motion_module.pixels_at_once", lambda hidden: 7)
    assert relative_error(run(unet, amount), expected) < 1e-12
    unet.fuse_qkv_projections()
    assert relative_error(run(unet, amount), expected) < 1e-12


def test_amounts_that_change_are_data_of_one_compiled_graph():
    unet, graphs = small(), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(unet, backend=backend, fullgraph=True)
    for value in (PER_FRAME, PER_FRAME.flip(0), PER_FRAME * 0):
        amount = MotionAmount(value, value.flip(0), ("up_blocks",))
        assert relative_error(run(compiled, amount), run(unet, amount)) < 1e-12
    assert len(graphs) == 1
    torch.compiler.reset()


def test_half_precision_keeps_its_dtype_and_comes_near(unet):
    half = made().bfloat16()
    amount = MotionAmount(PER_FRAME.float(), MAPS.float())
    out = run(half, amount, dtype=torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert relative_error(out.double(), run(unet, MotionAmount(PER_FRAME, MAPS))) < 0.1


def test_windows_take_their_own_frames():
    values, maps = torch.arange(6.0), torch.arange(24.0).view(6, 2, 2)
    options = ForwardOptions(
        motion_amounts=[MotionAmount(values, 0.5), MotionAmount(effect=maps, blocks=("up_blocks",))]
    )
    first, second = options_of(options, [[4, 5, 0], [1, 2, 3]], 6, 2).motion_amounts
    assert first.scale.tolist() == [[4, 5, 0], [1, 2, 3]] * 2 and first.effect == 0.5
    assert second.effect.shape == (4, 3, 2, 2) and second.blocks == ("up_blocks",)
    assert torch.equal(second.effect[0], maps[[4, 5, 0]]) and torch.equal(second.effect[3], maps[1:4])
    wrong = ForwardOptions(motion_amounts=[MotionAmount(torch.ones(4))])
    with pytest.raises(ValueError, match=r"`scale` of `motion_amounts` has shape \(4,\), expected 6 frames"):
        options_of(wrong, [[0, 1]], 6, 1)


@pytest.mark.parametrize(
    ("amount", "sentence"),
    [
        (
            dict(scale=torch.ones(4)),
            r"`scale` has shape \(4,\), expected one number, \(frames,\), .* 3 frames and 2 clips",
        ),
        (dict(effect=torch.ones(3, 2)), r"`effect` has shape \(3, 2\)"),
        (dict(effect=torch.ones(2, 4, 4)), r"`effect` has shape \(2, 4, 4\)"),
        (
            dict(blocks=("up_block",)),
            "`blocks` has 'up_block', where this UNet has no motion, .* down_blocks.0",
        ),
    ],
)
def test_amounts_that_do_not_fit_are_refused(unet, amount, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(unet, MotionAmount(**amount))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True])
def test_amounts_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="`scale` is .*, expected a finite number or a tensor"):
        MotionAmount(scale=value)


def test_a_processor_that_cannot_scale_is_named(unet):
    foreign = {"*.motion_modules.*": lambda attention, hidden, **_: hidden}
    with pytest.raises(ValueError, match="function knows nothing of the scale of `motion_amounts`"):
        run(unet, MotionAmount(scale=1.5), attn_processors=foreign)
    run(unet, MotionAmount(effect=0.5), attn_processors=foreign)
