"""Every sampler, scheduler and guider of ComfyUI, and what its sampling nodes do with a batch, on our MODEL."""

from __future__ import annotations

import comfy.samplers

# Before nodes_latent: the two import each other.
import comfy_extras.nodes_post_processing  # noqa: F401
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_latent import LatentBatch, LatentBatchSeedBehavior
from comfy_extras.nodes_perpneg import PerpNegGuider
from comfy_extras.nodes_rebatch import LatentRebatch
from sampled import difference, execute, models, noise, sample, text
from small import relative

from nodes import KSampler, KSamplerAdvanced, LatentFromBatch, RepeatLatentBatch, SetLatentNoiseMask

TOLERANCE = 1e-3
LATENT_SCALE = 0.18215


@pytest.fixture(scope="module")
def pair():
    return models(shallow=True)


def ksampler(model, latent, seed=8, steps=1, denoise=1.0):
    torch.manual_seed(0)
    return KSampler().sample(model, seed, steps, 3.0, "euler", "normal", text(1), text(2), latent, denoise)[0]


def empty(frames: int) -> dict:
    return {"samples": torch.zeros(frames, 4, 8, 8)}


def clip(frames: int) -> dict:
    return {"samples": noise(frames, 40) / LATENT_SCALE}


@pytest.mark.parametrize("name", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_gives_what_it_gives_with_comfyuis_model_each_time(pair, name):
    run = {"frames": 2, "steps": 2, "sampler": name, "cfg": 1.0}
    core, ours, again = (sample(model, **run) for model in (*pair, pair[1]))
    assert torch.equal(ours, again)
    assert relative(ours, core) < TOLERANCE


@pytest.fixture(scope="module")
def two_schedules(pair):
    return {name: sample(pair[1], frames=2, steps=3, cfg=1.0, scheduler=name) for name in ("normal", "beta")}


@pytest.mark.parametrize("name", comfy.samplers.KSampler.SCHEDULERS)
def test_every_scheduler_gives_what_it_gives_with_comfyuis_model(pair, two_schedules, name):
    core, ours = (sample(model, frames=2, steps=3, cfg=1.0, scheduler=name) for model in pair)
    assert relative(ours, core) < TOLERANCE
    assert relative(ours, two_schedules["beta" if name == "normal" else "normal"]) > 1e-6


GUIDERS = {
    "BasicGuider": lambda m: execute(custom.BasicGuider, m, text(1)),
    "CFGGuider": lambda m: execute(custom.CFGGuider, m, text(1), text(2), 3.0),
    "DualCFGGuider": lambda m: execute(custom.DualCFGGuider, m, text(1), text(3), text(2), 3.0, 2.0, "regular"),
    "DualCFGGuider nested": lambda m: execute(custom.DualCFGGuider, m, text(1), text(3), text(2), 3.0, 2.0, "nested"),
    "PerpNegGuider": lambda m: execute(PerpNegGuider, m, text(1), text(2), text(3), 3.0, 0.7),
    "DualModelGuider": lambda m: execute(custom.DualModelGuider, m, text(1), 3.0, m.clone(), text(2)),
}


@pytest.fixture(scope="module")
def guided(pair, moving):
    """A run of SamplerCustomAdvanced."""

    def run(model, guider):
        torch.manual_seed(0)
        sampler = execute(custom.KSamplerSelect, "euler")
        sigmas = execute(custom.BasicScheduler, model, "karras", 1, 1.0)
        start = execute(custom.RandomNoise, 4)
        return execute(custom.SamplerCustomAdvanced, start, GUIDERS[guider](model), sampler, sigmas, empty(2))[
            "samples"
        ]

    return run


@pytest.mark.parametrize("name", GUIDERS)
def test_every_guider_guides_as_with_comfyuis_model(pair, moving, guided, name):
    if not hasattr(custom, name.split()[0]) and name != "PerpNegGuider":
        pytest.skip(f"this ComfyUI has no {name}")
    core, ours = (guided(model, name) for model in pair)
    assert relative(ours, core) < TOLERANCE
    acting = guided(moving, name)
    assert acting.isfinite().all() and relative(acting, core) > 1e-2
    if name != "BasicGuider":
        assert relative(ours, guided(pair[1], "BasicGuider")) > 1e-2


def test_a_noise_mask_keeps_what_it_covers_and_changes_the_rest(pair, moving):
    given = clip(3)
    # The left half of each frame, and all of frame 1, are kept.
    mask = torch.ones(3, 64, 64)
    mask[:, :, :32] = 0
    mask[1] = 0
    masked = SetLatentNoiseMask().set_mask(given, mask)[0]
    core, ours, acting = (ksampler(model, masked)["samples"] for model in (*pair, moving))
    assert relative(ours, core) < TOLERANCE
    for out in (ours, acting):
        assert torch.allclose(out[:, :, :, :4], given["samples"][:, :, :, :4], atol=1e-4)
        assert torch.allclose(out[1], given["samples"][1], atol=1e-4)
        assert min(difference(out[::2, :, :, 4:], given["samples"][::2, :, :, 4:])) > 0.1
    assert relative(acting, ours) > 1e-2


def test_image_to_image_starts_from_the_given_clip_and_less_noise_keeps_more(pair, moving):
    given = clip(3)
    distances = []
    for denoise in (0.1, 0.6, 1.0):
        core, ours = (ksampler(model, given, steps=2, denoise=denoise)["samples"] for model in pair)
        assert relative(ours, core) < TOLERANCE
        distances.append(relative(ours, given["samples"]))
    assert 1e-3 < distances[0] < distances[1] < distances[2]
    assert torch.equal(ksampler(moving, given, denoise=0.0)["samples"], given["samples"])
    low, full = (ksampler(moving, given, steps=2, denoise=denoise)["samples"] for denoise in (0.3, 1.0))
    assert relative(low, given["samples"]) < relative(full, given["samples"])


def test_frames_taken_from_a_batch_keep_their_noise(pair, moving):
    whole = ksampler(pair[1], clip(4))["samples"]
    part = LatentFromBatch().frombatch(clip(4), 1, 2)[0]
    assert relative(ksampler(pair[1], part)["samples"], whole[1:3]) < TOLERANCE
    # Moving frames are drawn together, so a part of the clip is another clip.
    assert relative(ksampler(moving, part)["samples"], ksampler(moving, clip(4))["samples"][1:3]) > 1e-3


def test_batched_latents_are_one_clip_with_the_noise_of_their_own_places(pair, moving):
    first, second = clip(4), LatentFromBatch().frombatch(clip(4), 1, 2)[0]
    joined = execute(LatentBatch, first, second)
    core, ours = (ksampler(model, joined)["samples"] for model in pair)
    assert ours.shape[0] == 6 and relative(ours, core) < TOLERANCE
    assert relative(ours[4:], ours[1:3]) < TOLERANCE
    # In one clip, equal frames at other places come out differently.
    acting = ksampler(moving, joined)["samples"]
    assert relative(acting[4:], acting[1:3]) > 1e-3


def test_a_repeated_latent_is_a_clip_whose_frames_have_noise_of_their_own(pair, moving):
    repeated = RepeatLatentBatch().repeat(clip(1), 3)[0]
    core, ours, acting = (ksampler(model, repeated)["samples"] for model in (*pair, moving))
    assert relative(ours, core) < TOLERANCE
    assert min(relative(out[1], out[0]) for out in (ours, acting)) > 1e-3


def test_a_fixed_seed_for_the_batch_gives_every_frame_the_noise_of_the_first(pair, moving):
    fixed = execute(LatentBatchSeedBehavior, empty(3), "fixed")
    core, ours, acting = (ksampler(model, fixed)["samples"] for model in (*pair, moving))
    assert relative(ours, core) < TOLERANCE
    assert max(difference(ours, ours[:1].expand_as(ours))) < TOLERANCE
    # Frames that start alike are told apart by their positions only.
    assert max(difference(acting, acting[:1].expand_as(acting))) > 1e-3
    random = execute(LatentBatchSeedBehavior, fixed, "random")
    assert torch.equal(ksampler(moving, random)["samples"], ksampler(moving, empty(3))["samples"])


def test_a_rebatched_clip_is_several_clips_with_the_noise_of_their_places(pair, moving):
    parts = execute(LatentRebatch, [clip(4)], [2])
    assert [part["samples"].shape[0] for part in parts] == [2, 2]
    whole = ksampler(pair[1], clip(4))["samples"]
    for place, part in enumerate(parts):
        core, ours, acting = (ksampler(model, part)["samples"] for model in (*pair, moving))
        assert relative(ours, core) < TOLERANCE
        assert relative(ours, whole[2 * place : 2 * place + 2]) < TOLERANCE
        assert relative(acting, ours) > 1e-2


def test_two_samplers_in_a_row_give_what_one_gives(moving):
    def part(latent, add, start, end, leave):
        return KSamplerAdvanced().sample(
            moving, add, 6, 4, 3.0, "euler", "normal", text(1), text(2), latent, start, end, leave
        )[0]

    whole = part(empty(3), "enable", 0, 4, "disable")["samples"]
    first = part(empty(3), "enable", 0, 2, "enable")
    second = part(first, "disable", 2, 4, "disable")["samples"]
    assert relative(second, whole) < 1e-4
    assert relative(first["samples"], whole) > 1e-2
