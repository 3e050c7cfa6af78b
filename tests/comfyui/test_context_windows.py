"""Clips longer than the position table on a real server: samplers, the picture of the windows, errors, interruption."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.comfyui.graphs import bundled, sample
from unet_motion.sampling import ContextWindows
from unet_motion.sampling.window_picture import draw_windows
from unet_motion.video import read_frames, read_graphs

FRAMES = 34
DEFAULTS = {
    "length": 16, "overlap": 4, "stride": 1, "schedule": "standard_uniform", "closed_loop": False, "loop_frames": 0,
    "fuse": "pyramid", "free_noise": False, "use_on_equal_length": False, "windows_at_once": 1, "start_percent": 0.0,
    "end_percent": 1.0,
}  # fmt: skip


def windowed(frames=FRAMES, **changes):
    graph, needs = bundled(frames)
    windows = graph.add("UNetMotion_ContextWindows", "windows", model=needs["model"], **{**DEFAULTS, **changes})
    return graph, {**needs, "model": (windows, 0)}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_ksampler_and_motion_sampler_draw_the_long_clip_and_other_settings_another(server):
    graph, needs = windowed()
    sample(graph, needs, "core", steps=1)
    sample(graph, needs, "ours", "UNetMotion_Sampler", frames_per_clip=0, steps=1)
    loop = {**DEFAULTS, "schedule": "looped_uniform", "closed_loop": True, "windows_at_once": 2}
    looped = graph.add("UNetMotion_ContextWindows", "looped", model=needs["model"], **loop)
    sample(graph, {**needs, "model": (looped, 0)}, "loop", steps=1)
    shown = graph.add(
        "UNetMotion_ShowContextWindows", model=(looped, 0), latent_image=needs["latent_image"], steps=3,
        scheduler="normal",
    )  # fmt: skip
    graph.add("PreviewImage", "picture", images=(shown, 0))
    inside = graph.add(
        "UNetMotion_ContextWindows", "inside", model=needs["model"], **DEFAULTS, views=True, frames_at_once=8
    )
    sample(graph, {**needs, "model": (inside, 0)}, "views", steps=1)
    run = server.run(graph)
    assert run.error is None, run.error
    core, ours, looped, views = (server.latent(run, name) for name in ("core", "ours", "loop", "views"))
    assert views.shape == core.shape and torch.isfinite(views).all() and relative(views, core) > 1e-3
    assert core.shape == (FRAMES, 4, 8, 8) and torch.isfinite(core).all()
    assert torch.equal(core, ours) and relative(looped, core) > 1e-3
    windows = ContextWindows(16, 4, 1, "looped_uniform", closed_loop=True)
    with Image.open(io.BytesIO(server.file(run.outputs["picture"]["images"][0]))) as picture:
        found = np.asarray(picture.convert("RGB")).astype(int)
    expected = draw_windows([windows.plan(FRAMES, step) for step in range(3)], FRAMES).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 1


def test_a_long_clip_goes_into_a_file_with_the_workflow_that_made_it(server, tmp_path):
    graph, needs = windowed()
    sampler = sample(graph, needs, "long", steps=1)
    given = {"filename_prefix": "long/clip", "fps": 8.0, "quality": 90, "frames_at_once": 8}
    graph.add("UNetMotion_DecodeToFile", "file", samples=(sampler, 0), vae=("loader", 2), **given)
    run = server.run(graph)
    assert run.error is None, run.error
    path = tmp_path / "clip.mp4"
    path.write_bytes(server.file(run.outputs["file"]["images"][0]))
    assert len(list(read_frames(path))) == FRAMES
    prompt = read_graphs(path)["prompt"]
    windows = prompt["windows"]
    assert windows["class_type"] == "UNetMotion_ContextWindows" and windows["inputs"]["overlap"] == 4
    assert prompt["file"]["inputs"]["samples"] == [sampler, 0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"overlap": 16}, "`overlap` is 16, expected less than `length`, which is 16."),
        ({"length": 48}, "`length` is 48, but the motion module knows 32 positions"),
        ({"end_percent": 0.5}, "no context windows are set for step 2 of 2, but the clip has 34 frames"),
    ],
)
def test_what_cannot_be_comes_back_as_one_sentence(server, changes, sentence):
    graph, needs = windowed(**changes)
    sample(graph, needs, "wrong")
    run = server.run(graph)
    assert sentence in run.message and "\n" not in run.message


def test_a_run_that_is_interrupted_between_windows_leaves_the_next_one_as_it_is(server):
    graph, needs = windowed()
    sample(graph, needs, "first", steps=1)
    first = server.run(graph)
    long, needs = windowed()
    sample(long, needs, "long", steps=400, seed=6)
    sent = []

    def interrupt(event):
        if event["type"] == "progress" and not sent:
            sent.append(event)
            return "/interrupt"
        return None

    run = server.run(long, interrupt)
    assert sent and run.interrupted and run.error is None and "long" not in run.executed
    graph, needs = windowed()
    sample(graph, needs, "next", steps=1)
    again = server.run(graph)
    assert again.error is None
    assert torch.equal(server.latent(again, "next"), server.latent(first, "first"))
