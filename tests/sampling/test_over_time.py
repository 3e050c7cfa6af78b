"""Prompts, guidance and options over the frames and the steps of a run, against single calls of the UNet."""

import numpy as np
import pytest
import torch

from tests.sampling.test_pipeline import Autoencoder, TextEncoder, Tokenizer, clip, pipeline, unet  # noqa: F401
from unet_motion import ContextWindows, Curve, ForwardOptions, MotionAmount, MotionPipeline, PromptSchedule
from unet_motion.sampling import NoiseSchedule
from unet_motion.schedule import Timeline
from unet_motion.schedule.curve import product

TRAVEL = PromptSchedule.parse("p", '"0": "a red", "3": "star"')


def by_hand(unet, texts, guidance, amounts=lambda share: ()):  # noqa: F811
    """Guided DDIM of four frames with one call for each text (4, T, D), guidance (4,) at a share of the sampling."""
    schedule = NoiseSchedule.named()
    steps = schedule.steps(3, "trailing")
    x = torch.randn(4, 4, 3, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        for i, t in enumerate(steps.timesteps):
            share = 1 - float(t) / 999
            options = ForwardOptions(motion_amounts=amounts(share))
            view = x.permute(1, 0, 2, 3)[None]
            none, some = (unet(view, t.float(), text, options=options).sample[0].permute(1, 0, 2, 3) for text in texts)
            noise = none + guidance(share).view(-1, 1, 1, 1).float() * (some - none)
            x0 = (x - steps.sigmas[i].float() * noise) / steps.alphas[i].float()
            x = steps.alphas[i + 1].float() * x0 + steps.sigmas[i + 1].float() * noise
    return (Autoencoder().decode(x).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()


def encode(text):
    return TextEncoder()(Tokenizer().encode_all([text]))[0]


@pytest.fixture(scope="module")
def mixed():
    a, b = encode("a red").double(), encode("star").double()
    return torch.cat([a + (b - a) * frame / 3 for frame in range(4)]).float()


def near(found, expected):
    return np.abs(found - expected).max() <= 0.51  # rounding to whole numbers


def test_each_frame_has_its_own_mix_of_the_prompts(pipeline, unet, mixed):  # noqa: F811
    expected = by_hand(unet, (encode("").expand(4, -1, -1), mixed), lambda share: torch.full((4,), 2.5))
    travel = clip(pipeline, prompt=TRAVEL, seed=9, guidance=2.5)
    assert near(travel, expected)
    # In a window of all frames, and with the negative prompt as the schedule.
    assert (clip(pipeline, prompt=TRAVEL, seed=9, guidance=2.5, windows=ContextWindows(4, 0)) == travel).all()
    other = by_hand(unet, (mixed, encode("a").expand(4, -1, -1)), lambda share: torch.full((4,), 2.5))
    assert near(clip(pipeline, prompt="a", negative_prompt=TRAVEL, seed=9, guidance=2.5), other)
    assert not near(clip(pipeline, prompt="a red", seed=9, guidance=2.5), expected)
    one = PromptSchedule.constant("a red")
    assert near(clip(pipeline, prompt=one, seed=9), clip(pipeline, prompt="a red", seed=9).astype(float))


def test_each_distinct_prompt_is_encoded_once_and_pooled_text_is_mixed_too(unet):  # noqa: F811
    seen, pooled = [], []

    class Counting(Tokenizer):
        def encode_all(self, prompts):
            seen.extend(prompts)
            return super().encode_all(prompts)

    def added(vectors, rows):
        pooled.append((vectors, rows))
        return {}

    made = MotionPipeline(unet, TextEncoder(), Counting(), Autoencoder(), added_cond=added)
    schedule = PromptSchedule.parse("p", '"0": "a red", "2": "star", "3": "a red"')
    clip(made, prompt=schedule)
    assert sorted(seen) == ["", "a red", "star"]
    ((vectors, rows),) = pooled
    assert rows == 8
    a, b, none = (TextEncoder()(Tokenizer().encode_all([text]))[1] for text in ("a red", "star", ""))
    expected = torch.cat([none.expand(4, -1), a, (a + b) / 2, b, a])
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)


def test_windows_take_the_text_and_the_guidance_of_their_frames(pipeline):  # noqa: F811
    schedule = PromptSchedule.parse("p", '"0:5": "a red", "6:": "star"')
    windows = ContextWindows(6, 0, schedule="batched")
    curve = Curve.parse("g", "0:2 hold, 6:5")
    found = clip(pipeline, prompt=schedule, guidance=curve, frames=12, windows=windows)
    for part, prompt, guidance in ((slice(0, 6), "a red", 2.0), (slice(6, 12), "star", 5.0)):
        whole = clip(pipeline, prompt=prompt, guidance=guidance, frames=12, windows=windows)
        assert np.abs(found[part].astype(int) - whole[part]).max() <= 1
        assert np.abs(found.astype(int) - whole).max() > 3


def test_guidance_and_options_are_those_of_the_frame_and_of_the_step(pipeline, unet):  # noqa: F811
    texts = (encode("").expand(4, -1, -1), encode("star").expand(4, -1, -1))
    frames = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def amounts(share):
        return (MotionAmount(scale=1 + share, effect=frames / 4),)

    expected = by_hand(unet, texts, lambda share: frames * (2 - share), amounts)
    guidance = [Curve.parse("g", "0:1, 3:4"), Curve.parse("g", "0:2, 1:1", "steps")]
    given = dict(prompt="star", seed=9, guidance=guidance)
    found = clip(pipeline, **given, options=lambda share: ForwardOptions(motion_amounts=amounts(share)))
    assert near(found, expected) and not near(clip(pipeline, **given), expected)
    for wrong, sentence in (
        ([], "guidance is \\[\\], expected a number or curves"),
        (Curve.parse("g", "0:1, 3:2, 9:3"), "guidance: `g`: 9 is never reached: the clip has 4 frames"),
        (Curve.parse("guidance", "[1, 2, 3]"), "^`guidance`: found a list of 3 values, expected one for each of the 4"),
        (101, "guidance is 101, expected 0 to 100"),
    ):
        with pytest.raises(ValueError, match=sentence):
            clip(pipeline, guidance=wrong)
    with pytest.raises(ValueError, match="8 is never reached"):
        clip(pipeline, prompt=PromptSchedule.parse("p", '"0": "a", "3": "red", "8": "star"'))


@pytest.mark.parametrize("over", ["frames", "steps"])
def test_a_timeline_is_its_prompts_and_curves_given_one_by_one(pipeline, over):  # noqa: F811
    words = {"scale": "0:1.4, 1:0.7", "effect": "0:0.2, 1:1", "cfg": "0:1.5, 1:4"}
    if over == "frames":
        words = {name: text.replace("1:", "3:") if name != "effect" else "[0.2, 1, 0.4, 1]"
                 for name, text in words.items()}  # fmt: skip
    curves = {name: Curve.parse(name, text, over) for name, text in words.items()}
    line = Timeline.from_json(Timeline(TRAVEL, curves).to_json())

    def options(share):
        scale, effect = (product([curves[name]], 4, share).float() for name in ("scale", "effect"))
        return ForwardOptions(motion_amounts=[MotionAmount(0.9), MotionAmount(scale, effect)])

    before = ForwardOptions(motion_amounts=[MotionAmount(0.9)])
    expected = clip(pipeline, prompt=TRAVEL, negative_prompt="a", seed=9, guidance=curves["cfg"], options=options)
    for given in (before, lambda share: before):
        found = clip(pipeline, prompt=line, negative_prompt="a", seed=9, guidance=9.0, options=given)
        assert (found == expected).all()
    assert not (clip(pipeline, prompt=Timeline(TRAVEL), negative_prompt="a", seed=9, options=before) == expected).all()


def test_a_timelines_own_negative_prompt_counts_and_two_are_refused(pipeline):  # noqa: F811
    line = Timeline.read("f", '"0": "a red --neg star", "3": "star"')
    positive, negative = line.prompts.split_negative()
    expected = clip(pipeline, prompt=positive, negative_prompt=negative, seed=9)
    assert (clip(pipeline, prompt=line, seed=9) == expected).all()
    with pytest.raises(ValueError, match="the negative prompt is 'a', but the timeline has its own"):
        clip(pipeline, prompt=line, negative_prompt="a", seed=9)
