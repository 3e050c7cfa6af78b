"""Windows inside the motion modules: a MODEL's runs beside the core called by hand with the library's views."""

from __future__ import annotations

import itertools

import comfy.patcher_extension
import pytest
import torch
from check_context_windows import FRAMES, plan, windowed
from check_control import controlled, controlnet, hints
from pack.nodes.host.step.settings import with_settings
from pack.nodes.sampling import MotionSampler
from pack.unet_motion import ForwardOptions, Views
from sampled import models, noise, sample, text
from small import relative

TOLERANCE = 1e-5
LOOP = {"schedule": "looped_uniform", "closed_loop": True, "fuse": "flat"}


@pytest.fixture(scope="module")
def start():
    return noise(FRAMES)


def viewed(model, **changes):
    return windowed(model, views=True, **changes)


def by_hand(model, moves=True, **changes):
    """A MODEL whose core is called with the views of each step, or always the first one's, past settings and hooks."""
    steps = itertools.count()

    def call(executor, x, timesteps, context, *rest, **named):
        options = ForwardOptions(views=Views.of(plan(step=next(steps) * moves, **changes)))
        core = executor.class_obj.core
        return core.forward_frames(x, timesteps, context, num_frames=FRAMES, options=options)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "by_hand", call)
    return clone


@pytest.mark.parametrize("changes", [{}, LOOP])
def test_a_model_with_views_gives_what_the_core_gives_with_them(moving, start, changes):
    found = sample(viewed(moving, **changes), start=start)
    assert relative(found, sample(by_hand(moving, **changes), start=start)) < TOLERANCE
    assert relative(found, sample(windowed(moving, **changes), start=start)) > 1e-3


def test_views_move_with_the_steps(moving, start):
    def run(model):
        seen = []
        sample(model, start=start, steps=2, callback=lambda step, x0, x, total: seen.append(x0.clone()))
        return seen

    loop, right = run(viewed(moving, **LOOP)), run(by_hand(moving, **LOOP))
    still = run(by_hand(moving, moves=False, **LOOP))
    assert relative(loop[1], right[1]) < 5e-6 < 2e-5 < relative(loop[1], still[1])


def test_a_few_frames_at_a_time_give_the_same_clip_with_a_controlnet_too(start):
    deep, given, rows = models(active=True)[1], controlled(controlnet(), images=hints(FRAMES)), []
    everything = sample(viewed(deep), start=start, **given)
    transformer = deep.model.diffusion_model.core.down_blocks[0].attentions[0]
    with transformer.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0]))):
        found = sample(viewed(deep, frames_at_once=3), start=start, **given)
    assert relative(found, everything) < TOLERANCE and relative(found, sample(viewed(deep), start=start)) > 1e-3
    assert rows == [6, 6, 6, 4]  # of two conds


def test_attention_patches_see_all_frames_or_are_named(moving, start):
    patched = moving.clone()
    seen = []
    patched.set_model_attn1_output_patch(lambda out, extra: seen.append(len(out)) or out)
    found = sample(viewed(patched), start=start)
    assert relative(found, sample(viewed(moving), start=start)) < TOLERANCE and set(seen) == {2 * FRAMES}
    with pytest.raises(ValueError, match="`frames_at_once` is 3, but patches of the attention, such as IPAdapter's"):
        sample(viewed(patched, frames_at_once=3), start=start)


def test_each_clip_of_a_batch_has_its_own_views(moving):
    starts = noise(2 * FRAMES)

    def run(start):
        return sample(with_settings(viewed(moving, free_noise=True), frames_per_clip=FRAMES), start=start)

    alone = torch.cat([run(starts[:FRAMES]), run(starts[FRAMES:])])
    assert relative(run(starts), alone) < TOLERANCE


def test_views_and_windows_each_have_their_part_of_a_run(moving, start):
    def run(model):
        seen = []
        sample(model, start=start, steps=4, callback=lambda step, x0, x, total: seen.append(x0.clone()))
        return seen

    both = run(windowed(viewed(moving), start_percent=0.5))
    views, back = run(viewed(moving)), run(viewed(windowed(moving), end_percent=0.5))
    assert torch.equal(both[1], views[1]) and relative(both[2], views[2]) > 1e-4
    assert torch.equal(both[3], back[3])


def test_clips_longer_than_the_position_table(moving):
    latent, arguments = {"samples": torch.zeros(35, 4, 8, 8)}, (5, 1, 1.0, "euler", "normal", text(1), text(2))
    found = MotionSampler.execute(viewed(moving), *arguments, latent, 1.0, 0)[0]["samples"]
    assert found.shape == (35, 4, 8, 8) and found.isfinite().all()
    with pytest.raises(ValueError, match="ControlNet has 5 hints, but the clip has 11 frames"):
        sample(viewed(moving), start=noise(FRAMES), **controlled(controlnet(), images=hints(5)))


def test_memory_is_set_aside_for_the_whole_clip(moving, start, monkeypatch):
    asked, required = [], moving.model.memory_required
    monkeypatch.setattr(
        moving.model, "memory_required", lambda shape, **more: asked.append(shape[0]) or required(shape, **more)
    )
    for model in (viewed(moving), viewed(windowed(moving), start_percent=0.5)):
        asked.clear()
        sample(model, start=start)
        assert max(asked[:2]) == 2 * FRAMES
