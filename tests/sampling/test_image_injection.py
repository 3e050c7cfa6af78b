"""A picture laid into a clip: against the same by hand in float64, and a run in two parts with a loop by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.sampling.test_pipeline import Autoencoder, TextEncoder, Tokenizer
from unet_motion import ImageInjection, MotionPipeline, UNetMotionModel
from unet_motion.sampling import NoiseSchedule, get_sampler

FRAMES = 3


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(pictures, picture, x, y, weight):
    """Pixel for pixel; weight (F, h, w) of the picture's size."""
    made = pictures.double().clone()
    for frame in range(len(pictures)):
        for row in range(picture.shape[1]):
            for column in range(picture.shape[2]):
                if 0 <= y + row < pictures.shape[2] and 0 <= x + column < pictures.shape[3]:
                    share = float(weight[frame, row, column])
                    new = picture[frame % len(picture), row, column].double()
                    made[frame, :, y + row, x + column] *= 1 - share
                    made[frame, :, y + row, x + column] += share * new
    return made


@pytest.mark.parametrize("x, y", [(0, 0), (3, -2), (-1, 5)])
def test_a_picture_is_laid_in_where_and_as_strongly_as_asked(x, y):
    pictures, picture, mask = noise(FRAMES, 3, 8, 6), noise(1, 4, 5, 3, seed=1), noise(FRAMES, 4, 5, seed=2)
    strength = torch.tensor([0.0, 0.4, 1.0])
    made = ImageInjection(picture, 0.5, strength, mask, x, y).laid_in(pictures)
    expected = by_hand(pictures, picture, x, y, mask * strength[:, None, None])
    torch.testing.assert_close(made.double(), expected, atol=1e-6, rtol=0)
    whole = ImageInjection(picture[0], 0.5, 1.0, None, x, y).laid_in(pictures)
    torch.testing.assert_close(whole.double(), by_hand(pictures, picture, x, y, torch.ones(FRAMES, 4, 5)))
    larger = ImageInjection(picture, mask=torch.nn.functional.interpolate(mask[None], scale_factor=1)[0], x=x, y=y)
    assert torch.equal(larger.mask, mask)


def test_the_step_is_the_first_one_at_or_behind_the_share():
    shares = [0.0, 0.25, 0.5, 0.75]
    found = [replace(ImageInjection(noise(2, 2, 3)), at=at).step(shares) for at in (0, 0.25, 0.26, 0.75, 0.8, 1)]
    assert found == [0, 1, 2, 3, None, None]
    assert ImageInjection(noise(2, 2, 3), at=0.1).step([0.5, 0.7]) is None


class Both(Autoencoder):
    """With the way back; the fourth channel is zero."""

    def encode(self, pictures):
        small = (torch.nn.functional.avg_pool2d(pictures, 8) - 0.5) / 0.1
        return torch.cat([small, torch.zeros_like(small[:, :1])], dim=1)


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(11)
    unet = UNetMotionModel(
        block_out_channels=(32, 32), down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), cross_attention_dim=16, layers_per_block=1,
        motion_max_seq_length=8,
    )  # fmt: skip
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return MotionPipeline(unet.eval(), TextEncoder(), Tokenizer(), Both(), NoiseSchedule.named(), latent_scale=2.0)


def run(pipe, **more):
    given = {"frames": FRAMES, "steps": 4, "width": 32, "height": 32, "guidance": 2.0, "progress": False, **more}
    return pipe("a red star", **given)


def test_a_run_in_two_parts_is_a_loop_by_hand(pipe):
    injection = ImageInjection(noise(FRAMES, 16, 8, 3), 0.5, 0.8, None, 8, 16)
    seen = []
    predict = pipe._guided(["", "a red star"], FRAMES, 2.0, None)
    plan = pipe.schedule.steps(4, get_sampler("ddim").spacing)
    state = torch.randn(FRAMES, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x = state
        for i in range(len(plan)):
            alpha, sigma, following, after = (
                float(v) for v in (plan.alphas[i], plan.sigmas[i], plan.alphas[i + 1], plan.sigmas[i + 1])
            )

            def split(x, i=i, alpha=alpha, sigma=sigma):
                return pipe.schedule.split(x, predict(x, plan.timesteps[i], [list(range(FRAMES))]), alpha, sigma)

            clip, rest = split(x)
            if i == 2:
                pictures = pipe.autoencoder.decode(clip / 2.0).clamp(0, 1)
                seen.append(pictures)
                laid = pipe.autoencoder.encode(injection.laid_in(pictures)) - pipe.autoencoder.encode(pictures)
                clip, rest = split(alpha * (clip + 2.0 * laid) + sigma * rest)
            x = following * clip + after * rest
    expected = pipe.decode(x)
    found = run(pipe, injection=injection, noise="default")
    assert len(seen) == 1
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert np.abs(found.astype(int) - run(pipe).astype(int)).max() > 10


def test_no_strength_and_runs_that_do_not_come_by_change_no_bit(pipe):
    plain = run(pipe)
    for injection in (ImageInjection(noise(8, 8, 3), strength=0.0), ImageInjection(noise(8, 8, 3), at=1.0),
                      ImageInjection(noise(8, 8, 3), mask=torch.zeros(2, 2))):  # fmt: skip
        assert np.array_equal(run(pipe, injection=injection), plain)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"picture": noise(4, 4)}, r"`picture` has shape \(4, 4\), expected \(frames, height, width, 3\)"),
        ({"picture": noise(1, 1, 4, 4, 3)}, r"`picture` has shape \(1, 1, 4, 4, 3\), expected"),
        ({"picture": noise(4, 4, 4)}, r"`picture` has shape \(4, 4, 4\), expected \(frames, height, width, 3\)"),
        ({"picture": noise(2, 4, 4, 1)}, r"`picture` has shape \(2, 4, 4, 1\), expected"),
        ({"picture": noise(0, 4, 4, 3)}, r"`picture` has shape \(0, 4, 4, 3\), expected"),
        ({"picture": noise(4, 4, 3) / 0}, "`picture` has shape .* all finite"),
        ({"picture": np.zeros((4, 4, 3))}, "`picture` is a ndarray, expected a tensor of floats"),
        ({"picture": torch.ones(4, 4, 3, dtype=torch.uint8)}, "`picture` is a tensor of torch.uint8"),
        ({"mask": "all"}, "`mask` is a str, expected a tensor of floats"),
        ({"at": "x"}, "`at` is 'x', expected a number from 0 to 1"),
        ({"strength": "x"}, "`strength` is 'x', expected a number or a tensor"),
        ({"at": float("nan")}, "`at` is nan, expected 0 to 1"),
        ({"strength": float("inf")}, "`strength` is inf, expected one finite number"),
        ({"mask": noise(1)}, r"`mask` has shape \(1,\), expected \(frames, height, width\)"),
    ],
)
def test_what_does_not_fit_is_named(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ImageInjection(**{"picture": noise(4, 4, 3), **change})


def test_another_clip_is_named_before_the_work(pipe):
    with pytest.raises(ValueError, match="`picture` is for 2 frames, expected 1 or 3, one for each frame"):
        run(pipe, injection=ImageInjection(noise(2, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"picture of 8x8 pixels at \(32, 0\) lies outside of the clip's 32x32"):
        run(pipe, injection=ImageInjection(noise(8, 8, 3), x=32))
