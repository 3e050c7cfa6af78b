"""What belongs to a frame follows its frame in context windows: each window against a run of that window alone."""

from __future__ import annotations

import pytest
import torch
from check_animatelcm import i2v
from check_context_windows import mean_of_windows, windowed
from check_motion_lora import tensors, written
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.animatelcm import set_picture
from pack.nodes.host.step.pia import set_first_frame
from pack.nodes.host.step.settings import with_settings
from pack.unet_motion import MotionAdapter
from pack.unet_motion.formats import MotionModule
from sampled import SHALLOW, SIZE, noise, sample, text
from small import WIDTHS, fill, relative, sd15

import nodes as core_nodes

FRAMES = 7
SIZES = {"length": 4, "overlap": 1}
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def start():
    return noise(FRAMES)


def random(*shape, seed=6):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def both(run, start, **changes):
    """The clip in windows, and the mean of runs of its windows alone; `run` takes a MODEL's change and the frames."""
    out = run(lambda model: windowed(model, **SIZES, **changes), list(range(len(start))))
    return out, mean_of_windows(lambda window: run(lambda model: model, window), len(start), **SIZES)


def unet(**options):
    adapter = MotionAdapter(block_out_channels=WIDTHS, motion_layers_per_block=1, **options)
    fill(adapter, seed=1)
    return apply_motion_module(sd15(**SHALLOW), MotionModule.from_adapter(adapter, "motion.safetensors"))


def masked(rows):
    node = core_nodes.ConditioningSetMask()
    return node.append(text(3, 5), random(FRAMES, *SIZE)[rows], "default", 1.0)[0] + text(1)


def texts(rows):
    return [[torch.cat([text(10 + row)[0][0] for row in rows]), {}]]


@pytest.mark.parametrize("of_frames", [masked, texts])
@pytest.mark.parametrize("at_once", [1, 2])
def test_masks_and_texts_of_frames(moving, start, of_frames, at_once):
    def run(change, rows):
        return sample(change(moving), start=start[rows], positive=of_frames(rows))

    out, alone = both(run, start, windows_at_once=at_once)
    assert relative(out, alone) < TOLERANCE
    same = of_frames([0] * FRAMES)
    assert relative(out, sample(windowed(moving, **SIZES), start=start, positive=same)) > 1e-3


def test_fewer_masks_than_frames_are_repeated_over_the_clip_as_without_windows(moving, start):
    three, model = random(3, *SIZE), windowed(moving, **SIZES)

    def run(mask):
        positive = core_nodes.ConditioningSetMask().append(text(3, 5), mask, "default", 1.0)[0] + text(1)
        return sample(model, start=start[:6], positive=positive)

    assert torch.equal(run(three), run(three.repeat(2, 1, 1)))


def test_noise_masks_of_frames(moving, start):
    mask, latent = random(FRAMES, 1, *SIZE), random(FRAMES, 4, *SIZE, seed=8)

    def run(change, rows):
        return sample(change(moving), start=start[rows], latent=latent[rows], noise_mask=mask[rows])

    out, alone = both(run, start)
    assert relative(out, alone) < TOLERANCE


def test_pictures_of_inpainting_models(start):
    base = sd15(**SHALLOW, in_channels=9)
    base.model.set_inpaint()
    adapter = MotionAdapter(block_out_channels=WIDTHS, motion_layers_per_block=1)
    fill(adapter, seed=1)
    model = apply_motion_module(base, MotionModule.from_adapter(adapter, "motion.safetensors"))
    picture, mask = random(FRAMES, 4, *SIZE, seed=8), random(FRAMES, 1, *SIZE).round()

    def run(change, rows):
        given = {"concat_latent_image": picture[rows], "concat_mask": mask[rows]}
        return sample(change(model), start=start[rows], positive=text(1, **given), negative=text(2, **given))

    out, alone = both(run, start)
    assert relative(out, alone) < TOLERANCE
    assert relative(out, run(lambda model: windowed(model, **SIZES), [0, 0, 1, 1, 2, 2, 3])) > 1e-2


@pytest.mark.parametrize("at_once", [1, 2])
def test_strengths_of_motion_loras_over_the_frames(moving, start, tmp_path, at_once):
    file = written(tmp_path, tensors())

    def run(change, rows):
        whole = len(rows) == FRAMES
        points = {0: 0, FRAMES - 1: 12} if whole else {0: 2 * rows[0], len(rows) - 1: 2 * rows[-1]}
        curve = ", ".join(f"{frame}:{strength}" for frame, strength in points.items())
        return sample(change(load_motion_lora(moving, file, 1.0, "", curve)), start=start[rows])

    out, alone = both(run, start, windows_at_once=at_once)
    assert relative(out, alone) < TOLERANCE
    assert relative(out, sample(windowed(moving, **SIZES), start=start)) > 1e-3


@pytest.mark.parametrize("at_once", [1, 2])
def test_pias_picture_keeps_its_place_in_the_clip(start, at_once):
    model = unet(use_motion_mid_block=False, conv_in_channels=9)
    influence, picture = [1.0, 0.9, 0.7, 0.6, 0.4, 0.3, 0.1], {"samples": random(1, 4, *SIZE)}

    def run(change, rows):
        return sample(change(set_first_frame(model, picture, influence[rows[0] :], False, 0, 1.0)), start=start[rows])

    out, alone = both(run, start, windows_at_once=at_once)
    assert relative(out, alone) < TOLERANCE
    anew = set_first_frame(model, picture, influence, False, 0, 1.0)
    assert relative(out, mean_of_windows(lambda w: sample(anew, start=start[w]), FRAMES, **SIZES)) > 1e-4


@pytest.mark.parametrize("at_once", [1, 2])
def test_animatelcms_pictures_of_frames(start, at_once):
    model, pictures = apply_motion_module(sd15(), i2v()), 50 * noise(FRAMES, seed=9)

    def run(change, rows, pictures=pictures):
        return sample(change(set_picture(model, {"samples": pictures[rows]}, 0.8, 10.0)), start=start[rows])

    out, alone = both(run, start, windows_at_once=at_once)
    assert relative(out, alone) < TOLERANCE
    moved = run(lambda m: windowed(m, **SIZES), list(range(FRAMES)), pictures.roll(3, 0))
    assert relative(out, moved) > 1e-3


def test_other_packs_are_told_the_frames_of_a_window(moving, start):
    seen = []

    def look(apply_model, given):
        seen.append(given["c"]["transformer_options"]["ad_params"])
        return apply_model(given["input"], given["timestep"], **given["c"])

    for at_once in (1, 2):
        model = windowed(moving, **SIZES, windows_at_once=at_once)
        model.set_model_unet_function_wrapper(look)
        sample(model, start=start)
    common = {"full_length": FRAMES, "context_length": 4}
    assert seen == [
        {**common, "sub_idxs": [0, 1, 2, 3]}, {**common, "sub_idxs": [3, 4, 5, 6]},
        {**common, "sub_idxs": [0, 1, 2, 3, 3, 4, 5, 6]},
    ]  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 2])
def test_several_clips_in_a_batch_are_cut_each_by_itself(moving, at_once):
    starts, mask = noise(2 * FRAMES), random(2 * FRAMES, *SIZE)
    set_mask = core_nodes.ConditioningSetMask()

    def run(rows, clips):
        positive = set_mask.append(text(3, 5), mask[rows], "default", 1.0)[0] + text(1)
        model = windowed(moving, **SIZES, windows_at_once=at_once, free_noise=True)
        return sample(with_settings(model, frames_per_clip=len(rows) // clips), start=starts[rows], positive=positive)

    rows = list(range(2 * FRAMES))
    together = run(rows, 2)
    alone = torch.cat([run(rows[:FRAMES], 1), run(rows[FRAMES:], 1)])
    assert relative(together, alone) < TOLERANCE
