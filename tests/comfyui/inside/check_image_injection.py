"""Pictures laid into runs of core samplers, beside the same in two runs by hand."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from check_over_time import curve
from comfy.k_diffusion.sampling import get_ancestral_step
from pack.nodes.host.step.noise import LAST_SEED
from pack.nodes.host.step.settings import with_settings
from pack.nodes.image_injection import InjectImage
from pack.unet_motion import ImageInjection
from sampled import noise, sample, text
from small import relative

STEPS, FRAMES = 4, 3


class VAE:
    """Eight pixels to a latent: three channels enlarged, the fourth is lost."""

    def spacial_compression_decode(self):
        return 8

    def decode(self, latents):
        return (0.5 + latents[:, :3] / 12).repeat_interleave(8, -1).repeat_interleave(8, -2).movedim(1, -1)

    def encode(self, pictures):
        small = (F.avg_pool2d(pictures.movedim(-1, 1), 8) - 0.5) * 12
        return torch.cat([small, torch.zeros_like(small[:, :1])], 1)


def picture(frames=1, seed=3):
    return torch.rand(frames, 24, 40, 3, generator=torch.Generator().manual_seed(seed))


def injected(model, image=None, at=0.5, strength=1.0, x=8, y=16, **more):
    image = picture() if image is None else image
    return InjectImage.execute(model, VAE(), image, at, strength, x, y, **more).result[0]


def watched(model, sampler="euler", **more):
    """The states and the clips so far before each step, and the result."""
    seen = []
    found = sample(model, steps=STEPS, sampler=sampler, cfg=2.0, **more,
                   callback=lambda i, x0, x, total: seen.append((i, x.clone(), x0.clone(), total)))  # fmt: skip
    return seen, found


def by_hand(model, injection, k, sampler="euler"):
    """The rest of a run behind step k, begun from the state there with the picture in it."""
    states, _ = watched(model, sampler)
    _, x, clip, _ = states[k]
    inner, vae = model.model, VAE()
    decode = lambda latents: vae.decode(inner.process_latent_out(latents)).movedim(-1, 1)  # noqa: E731
    encode = lambda pictures: inner.process_latent_in(vae.encode(pictures.movedim(1, -1)))  # noqa: E731
    pictures = decode(clip).clamp(0, 1)
    x = x + encode(injection.laid_in(pictures)) - encode(pictures)
    whole = comfy.samplers.KSampler(model, STEPS, "cpu", sampler, "normal", 1.0).sigmas
    run = comfy.samplers.sampler_object(sampler)
    return comfy.sample.sample_custom(
        model, torch.zeros_like(x), 2.0, run, whole[k:], text(1), text(2), inner.process_latent_out(x),
        disable_pbar=True, seed=3,
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_the_rest_of_a_run_goes_on_from_the_clip_with_the_picture(moving, sampler):
    mask = torch.zeros(1, 24, 40)
    mask[:, 8:] = 1
    strengths = [0.0, 0.5, 1.0]
    model = injected(moving, picture(FRAMES), mask=mask, strength_curve=strengths)
    own = ImageInjection(picture(FRAMES), 0.5, torch.tensor(strengths), mask, 8, 16)
    seen, found = watched(model, sampler)
    assert [entry[0] for entry in seen] == list(range(STEPS)) and {entry[3] for entry in seen} == {STEPS}
    expected = by_hand(moving, own, 2, sampler)
    _, plain = watched(moving, sampler)
    assert relative(found, expected) < 1e-5 < 1e-3 < relative(found, plain)


def test_runs_that_do_not_come_by_and_no_strength_change_no_bit(moving):
    plain = watched(moving)[1]
    for model in (injected(moving, strength=0.0), injected(moving, strength_curve=[0, 0, 0])):
        assert torch.equal(watched(model)[1], plain)
    assert relative(sample(injected(moving, at=0.0), steps=2), sample(moving, steps=2)) > 1e-3
    late = {"start_step": 3, "steps": STEPS, "last_step": 4, "latent": noise(seed=8)}
    assert torch.equal(sample(injected(moving), **late), sample(moving, **late))
    twice = injected(injected(moving, at=0.2), picture(seed=4), at=0.6)
    assert relative(watched(twice)[1], watched(injected(moving, at=0.2))[1]) > 1e-3


def test_the_last_seed_has_a_next_one(moving):
    """Where noise is drawn again, in a step and behind a picture."""
    found = [watched(injected(moving), "euler_ancestral", seed=seed)[1] for seed in (LAST_SEED, 0)]
    assert relative(*found) > 1e-3


@pytest.mark.parametrize("shares", [(0.3, 0.6), (0.5, 0.5), (0.0, 0.8)])
def test_each_of_several_pictures_is_laid_in_once(moving, monkeypatch, shares):
    """In whatever order the nodes stand, where the pictures are at other steps."""
    first, second = ({"image": picture(seed=5 + i), "at": at} for i, at in enumerate(shares))
    both_ways = [injected(injected(moving, **one), **other) for one, other in ((first, second), (second, first))]
    decoded, decode = [], VAE.decode
    monkeypatch.setattr(VAE, "decode", lambda self, latents: (decoded.append(latents), decode(self, latents))[1])
    found = [watched(model) for model in both_ways]
    assert len(decoded) == 4 and all([entry[0] for entry in seen] == list(range(STEPS)) for seen, _ in found)
    if shares[0] != shares[1]:
        assert relative(found[0][1], found[1][1]) < 1e-5
        early = watched(injected(moving, **first))[0]
        assert relative(found[0][0][1][1], early[1][1]) < 1e-5


def test_clips_of_a_batch_have_the_picture_each(moving):
    model = with_settings(injected(moving, strength_curve=curve("0:0, 1:1")), frames_per_clip=2)
    start = noise(2).repeat(2, 1, 1, 1)
    found = sample(model, steps=2, start=start)
    alone = sample(injected(moving, strength_curve=curve("0:0, 1:1")), steps=2, start=noise(2))
    assert relative(found[:2], alone) < 1e-5 and relative(found[2:], alone) < 1e-5


def test_noise_that_is_drawn_anew_is_other_noise_in_each_part(moving):
    """What euler_ancestral added in a step, from the states before and after it."""
    plain, found = (watched(model, "euler_ancestral")[0] for model in (moving, injected(moving, at=0.5)))
    assert torch.equal(plain[1][1], found[1][1]) and relative(found[3][1], plain[3][1]) > 1e-2
    sigmas = comfy.samplers.KSampler(moving, STEPS, "cpu", "euler_ancestral", "normal", 1.0).sigmas

    def added(i):
        (_, x, clip, _), after = found[i], found[i + 1][1]
        down, up = get_ancestral_step(sigmas[i], sigmas[i + 1])
        return (after - (x + (x - clip) / sigmas[i] * (down - sigmas[i]))) / up

    first, second = added(0).flatten(), added(2).flatten()
    assert first.std() == pytest.approx(1, abs=0.1) and second.std() == pytest.approx(1, abs=0.1)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.15


def test_what_does_not_fit_is_named(moving):
    for changes, sentence in (
        ({"image": picture(2)}, "`picture` is for 2 frames, expected 1 or 3, one for each frame"),
        ({"x": 64}, r"picture of 40x24 pixels at \(64, 16\) lies outside of the clip's 64x64"),
        ({"strength_curve": curve("0:0, 2:1, 9:1")}, "9 is never reached: the clip has 3 frames"),
    ):
        with pytest.raises(ValueError, match=sentence):
            sample(injected(moving, **changes))
    with pytest.raises(ValueError, match="`strength_curve` goes over the steps"):
        injected(moving, strength_curve=curve("0:0, 1:1", "steps"))
    with pytest.raises(ValueError, match="`vae` is empty"):
        InjectImage.execute(moving, None, picture(), 0.5, 1.0, 0, 0)
