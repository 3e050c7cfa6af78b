"""Curves between nodes, prompts over frames, motion and guidance over time, on small models of ComfyUI."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import comfy_api.input
import numpy as np
import pytest
import torch
from pack.nodes.host.curves import Curves, read_curves
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.settings import with_settings
from pack.nodes.over_time import Guidance, MotionAmount, MotionCurve, PromptTravel
from pack.unet_motion import ForwardOptions
from pack.unet_motion import MotionAmount as Amount
from pack.unet_motion.schedule import Curve
from sampled import difference, execute, noise, sample, text
from small import inputs, motion_module, options, relative, sd15

FRAMES = 4


@pytest.fixture(scope="module")
def moving():
    return apply_motion_module(sd15(), motion_module())


def curve(words, over="frames", **more):
    return MotionCurve.execute(words, over, 16, **more).result[0]


def amount(model, scale=1.0, effect=1.0, blocks="", **more):
    return MotionAmount.execute(model, scale, effect, blocks, **more).result[0]


def call(model, timestep=600.0, frames=FRAMES, **extra):
    torch.manual_seed(2)
    given = {**inputs(frames, 8, 8), "timesteps": torch.full((2 * frames,), timestep)}
    settings = model.model_options["transformer_options"]
    return model.model.diffusion_model(**given, transformer_options={**settings, **options(), **extra})


def by_core(model, *amounts, timestep=600.0):
    """What the library's UNet gives for amounts of its own."""
    torch.manual_seed(2)
    given = inputs(FRAMES, 8, 8)
    return model.model.diffusion_model.core.forward_frames(
        given["x"], torch.full((2 * FRAMES,), timestep), given["context"], FRAMES,
        options=ForwardOptions(motion_amounts=amounts),
    )  # fmt: skip


def test_amounts_over_frames_and_steps_by_block_are_the_librarys(moving):
    plain = call(moving)
    assert torch.equal(call(amount(moving)), plain)
    over_frames, over_steps = curve("0:0.5, 3:1.5"), curve("0:0, 0.5:2 hold, 1:0", "steps")
    values = torch.tensor([0.5, 5 / 6, 7 / 6, 1.5])
    found = call(amount(moving, 1.2, scale_curve=over_frames))
    assert relative(found, by_core(moving, Amount(scale=1.2 * values))) < 1e-5 < 1e-4 < relative(found, plain)
    share = 1 - 600 / 999
    found = call(amount(moving, effect=0.8, effect_curve=over_steps, blocks="up_blocks, mid_block"))
    expected = by_core(moving, Amount(effect=0.8 * share * 4, blocks=("up_blocks", "mid_block")))
    assert relative(found, expected) < 1e-5 < 1e-4 < relative(found, plain)
    both = curve("0:0.5, 3:1.5", times=curve("0:0, 1:1", "steps"))
    found = call(amount(amount(moving, effect_curve=both), 0.5))
    assert relative(found, by_core(moving, Amount(effect=values * share), Amount(scale=0.5))) < 1e-5
    assert torch.equal(call(moving), plain)


def test_a_range_of_steps_is_a_curve_of_the_effect(moving):
    ranged = amount(moving, effect_curve=curve("0:1 hold, 0.5:0", "steps"))
    assert torch.equal(call(ranged, 800.0), call(moving, 800.0))
    assert relative(call(ranged, 300.0), call(amount(moving, effect=0.0), 300.0)) < 1e-6


def test_masks_hold_where_they_are_white(moving):
    mask = torch.zeros(FRAMES, 16, 16)
    mask[:, :, 8:] = 0.75
    mask[2] = 0
    maps = 1 + mask * torch.tensor([-1.0, -2 / 3, -1 / 3, 0.0])[:, None, None]
    found = call(amount(moving, effect_curve=curve("0:0, 3:1"), mask=mask))
    assert relative(found, by_core(moving, Amount(effect=maps))) < 1e-5
    one = call(amount(moving, effect=0.25, mask=mask[0]))
    expected = by_core(moving, Amount(effect=(1 - 0.75 * mask[0]).expand(FRAMES, 16, 16)))
    assert relative(one, expected) < 1e-5
    with pytest.raises(ValueError, match="`mask` holds 3 pictures, expected 1 or 4, one for each frame"):
        call(amount(moving, 0.5, mask=mask[:3]))
    with pytest.raises(ValueError, match="`mask` has shape .*, expected \\(frames, height, width\\), all finite"):
        amount(moving, 0.5, mask=mask * float("nan"))


def test_windows_and_batches_of_clips_take_their_own_frames(moving):
    model = amount(moving, effect_curve=curve("2:0, 6:1"))
    expected = by_core(moving, Amount(effect=torch.tensor([0.25, 0.5, 0.75, 1.0])))
    window = SimpleNamespace(index_list=[3, 4, 5, 6], total_frames=8)
    for extra in ({"ad_params": {"sub_idxs": [3, 4, 5, 6], "full_length": 8}}, {"context_window": window}):
        assert relative(call(model, **extra), expected) < 1e-5
    ends = amount(moving, effect_curve=curve("0:0, -1:1"))
    wide = call(ends, context_window=SimpleNamespace(index_list=[3, 4, 5, 6], total_frames=9))
    assert relative(wide, by_core(moving, Amount(effect=torch.tensor([3, 4, 5, 6]) / 8))) < 1e-5
    clips = with_settings(amount(moving, effect_curve=curve("0:1, 1:0")), frames_per_clip=2)
    alone = call(with_settings(amount(moving, effect_curve=[1, 0]), frames_per_clip=2))
    assert torch.equal(call(clips), alone) and relative(alone, call(moving)) > 1e-3
    with pytest.raises(ValueError, match="`effect_curve`: 6 is never reached: the clip has 4 frames"):
        call(amount(moving, effect_curve=curve("0:0, 3:1, 6:0")))


def test_branches_and_copies_keep_their_own(moving):
    first = amount(moving, 1.3)
    assert torch.equal(call(copy.copy(first).clone()), call(first))
    assert relative(call(amount(first, 0.5)), call(first)) > 1e-4
    with pytest.raises(ValueError, match="`blocks` has 'middle', where this UNet has no motion, expected names such"):
        amount(moving, blocks="middle")
    with pytest.raises(ValueError, match="UNetModel without motion modules; put Apply Motion Module before"):
        amount(sd15())


def test_lists_numbers_and_curves_of_core_are_curves():
    assert read_curves("c", [1, 0.5])[0].values(2).tolist() == [1, 0.5]
    assert read_curves("c", np.array([2.0, 3.0]))[0].values(2).tolist() == [2, 3]
    assert read_curves("c", [0, 1], "steps")[0].value_at(0.25) == 0.25
    assert read_curves("c", 0.5)[0].is_constant and read_curves("c", None) == ()
    assert read_curves("c", Curves()) == ()
    for given, sentence in (
        ("0:1", "`c` is a str, expected a curve"),
        ([1, float("nan")], "`c`: the value at 1 is nan"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_curves("c", given)


@pytest.mark.skipif(not hasattr(comfy_api.input, "CurveInput"), reason="this ComfyUI has no CURVE")
def test_curves_go_to_core_and_back_with_their_values():
    points = [(0.0, 0.2), (0.3, 0.9), (0.35, 0.1), (1.0, 0.6)]
    xs = np.linspace(0, 1, 101)
    for kind in (comfy_api.input.LinearCurve, comfy_api.input.MonotoneCubicCurve):
        theirs = kind(points)
        for over in ("frames", "steps"):
            (ours,) = read_curves("c", theirs, over)
            found = ours.values(101) if over == "frames" else ours.pieces().at(torch.tensor(xs))
            assert np.abs(found.numpy() - theirs.interp_array(xs)).max() < 1e-9

    class Wave(comfy_api.input.CurveInput):
        points = property(lambda self: [])

        def interp(self, x):
            return float(np.sin(x))

    (wave,) = read_curves("c", Wave(), "steps")
    assert abs(wave.value_at(0.37) - np.sin(0.37)) < 1e-5
    _, core, floats = MotionCurve.execute("0:0, 8:1 smooth, -1:0.5", "frames", 16).result
    values = Curve.parse("c", "0:0, 8:1 smooth, -1:0.5").values(16)
    assert floats == values.tolist()
    assert np.abs(core.interp_array(np.arange(16) / 15) - values.numpy()).max() < 1e-12
    assert comfy_api.input.CurveInput.from_raw(core) is core and core.points[1] == (8 / 15, 1.0)
    assert core.to_lut(4).shape == (4,)


class Clip:
    """A CLIP that counts what it encodes: a text of n words has 4 * (n + 1) tokens."""

    def __init__(self, entries=1):
        self.seen, self.entries = [], entries

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        self.seen.append(text)
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        tokens = torch.randn(1, 4 * (len(text.split()) + 1), 768, generator=generator)
        pooled = torch.randn(1, 5, generator=generator)
        count = self.entries if text != "b" else 1
        return [[tokens * (i + 1), {"pooled_output": pooled, "hook": i}] for i in range(count)]


def travel(clip, lines, frames=5, before="", after="", interpolation="linear"):
    return PromptTravel.execute(clip, lines, frames, before, after, interpolation).result


def test_prompts_are_encoded_once_each_and_mixed_for_each_frame():
    clip = Clip()
    positive, negative = travel(clip, '"0": "a", "2": "b c", "4": "a"')
    assert clip.seen == ["a", "b c", ""] and len(negative[0][0]) == 1
    (a, a_more), (b, b_more) = (Clip().encode_from_tokens_scheduled(word)[0] for word in ("a", "b c"))
    tokens, more = positive[0]
    assert tokens.shape == (5, 24, 768) and more["hook"] == 0
    tiled = [a[0].double().repeat(3, 1), b[0].double().repeat(2, 1)]
    for frame, share in enumerate((0, 0.5, 1, 0.5, 0)):
        expected = (1 - share) * tiled[0] + share * tiled[1]
        torch.testing.assert_close(tokens[frame].double(), expected, atol=1e-6, rtol=0)
        pooled = (1 - share) * a_more["pooled_output"][0] + share * b_more["pooled_output"][0]
        torch.testing.assert_close(more["pooled_output"][frame], pooled)
    timed, _ = travel(Clip(entries=2), '"0": "a", "4": "c"')
    assert [entry[1]["hook"] for entry in timed] == [0, 1] and torch.equal(timed[1][0][0, :8], 2 * a[0])
    with pytest.raises(ValueError, match="`clip` has hooks that give the prompts different ranges of steps"):
        travel(Clip(entries=2), '"0": "a", "4": "b"')
    with pytest.raises(ValueError, match="`text`: line 2: found"):
        travel(Clip(), '"0": "a",\n"4" "b"')
    untouched = Clip()
    with pytest.raises(ValueError, match="`text`: 9 is never reached: the clip has 5 frames"):
        travel(untouched, '"0": "a", "4": "b", "9": "c"')
    assert untouched.seen == []


def test_each_frame_gets_what_its_own_text_gives_and_a_key_frame_what_its_prompt_gives_alone():
    still = apply_motion_module(sd15(), motion_module(active=False), beta_schedule="linear")
    positive, _ = travel(Clip(), '"0": "a", "2": "b c"', frames=3)
    together = sample(still, positive, text(2), frames=3)
    for frame, words in ((0, "a"), (2, "b c")):
        alone = Clip().encode_from_tokens_scheduled(words)
        single = sample(still, [[alone[0][0], {}]], text(2), start=noise(3)[frame : frame + 1])
        assert relative(together[frame : frame + 1], single) < 1e-5
    between = sample(still, [[positive[0][0][1:2], {}]], text(2), start=noise(3)[1:2])
    assert relative(together[1:2], between) < 1e-5
    assert difference(together, sample(still, frames=3))[1] > 1e-2


def test_guidance_of_a_frame_is_that_of_a_run_with_the_constant():
    still = apply_motion_module(sd15(), motion_module(active=False), beta_schedule="linear")
    values = [1.0, 4.0, 7.5]
    model = Guidance.execute(still, 1.0, values).result[0]
    together = sample(model, cfg=5.0, steps=2)
    for frame, cfg in enumerate(values):
        constant = sample(still, cfg=cfg, steps=2)
        assert relative(together[frame : frame + 1], constant[frame : frame + 1]) < 1e-4
    assert relative(together, sample(still, cfg=4.0, steps=2)) > 1e-3
    # The first of three steps begins at share 0.
    steps = Guidance.execute(still, 3.0, curve("0:2, 0.01:2, 0.01:1", "steps")).result[0]
    seen = {}
    for name, run, cfg in (("ours", steps, 9.0), ("six", still, 6.0), ("three", still, 3.0)):
        seen[name] = []
        sample(run, cfg=cfg, steps=3, callback=lambda i, x0, x, total, name=name: seen[name].append(x0.clone()))
    assert relative(seen["ours"][0], seen["six"][0]) < 1e-5 < 1e-3 < relative(seen["ours"][1], seen["six"][1])
    assert relative(sample(steps, cfg=1.0), sample(still, cfg=6.0)) < 1e-5


def test_another_nodes_way_of_mixing_stays():
    from comfy_extras.nodes_model_advanced import RescaleCFG

    still = apply_motion_module(sd15(), motion_module(active=False), beta_schedule="linear")
    rescaled = execute(RescaleCFG, still, 0.7)
    model = Guidance.execute(rescaled, 1.0, [2.0, 6.0, 6.0]).result[0]
    found = sample(model, cfg=1.5)
    for frame, cfg in ((0, 2.0), (1, 6.0)):
        assert difference(found, sample(rescaled, cfg=cfg))[frame] < 1e-4
        assert difference(found, sample(still, cfg=cfg))[frame] > 1e-3


def test_text_for_another_number_of_frames_is_an_error_and_not_repeated():
    still = apply_motion_module(sd15(), motion_module(active=False), beta_schedule="linear")
    positive, _ = travel(Clip(), '"0": "a", "1": "b c"', frames=2)
    with pytest.raises(ValueError, match="the conditioning has text for 2 frames, but the clip has 3: give `frames`"):
        sample(still, positive, text(2), frames=3)
    clips = with_settings(still, frames_per_clip=2)
    twice = sample(clips, positive, text(2), start=noise(2).repeat(2, 1, 1, 1))
    assert torch.equal(twice[:2], twice[2:])


def test_a_run_that_will_give_noise_is_named_and_goes_on(caplog):
    from dataclasses import replace

    model = apply_motion_module(sd15(), replace(motion_module(), version="lcm"), beta_schedule="linear")
    quiet = sample(apply_motion_module(sd15(), motion_module(), beta_schedule="linear"), cfg=7.5)
    assert "motion module was made for" not in caplog.text
    assert torch.equal(sample(model, cfg=7.5), quiet)
    assert "An AnimateLCM motion module was made for 16 frames, lcm, 6 steps, guidance 1.5: guidance 7.5" in caplog.text
    caplog.clear()
    sample(apply_motion_module(sd15(), replace(motion_module(), version="v3"), beta_schedule="linear"), frames=8)
    assert "its noise schedule is sqrt_linear, here it is linear." in caplog.text
    caplog.clear()
    sample(apply_motion_module(sd15(), replace(motion_module(), version="v3")), frames=8)
    assert caplog.text == ""
