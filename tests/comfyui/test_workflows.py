"""The example workflows, from the saved file to the finished clip."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.graphs import from_workflow
from tests.comfyui.installations import ROOT


@pytest.fixture(scope="module")
def first_animation(server):
    workflow = json.loads((ROOT / "example_workflows" / "first_animation.json").read_text())
    run = server.run(from_workflow(workflow, server.get("/object_info")))
    assert run.error is None, run.error
    (entry,) = (image for output in run.outputs.values() for image in output.get("images", ()))
    return server.file(entry)


def test_first_animation_runs_to_a_clip_of_16_frames_that_moves(first_animation):
    with Image.open(io.BytesIO(first_animation)) as clip:
        assert clip.size == (256, 256) and clip.n_frames == 16
        frames = []
        for index in range(16):
            clip.seek(index)
            frames.append(np.asarray(clip.convert("RGB"), dtype=np.float32))
    changes = [np.abs(after - before).mean() for before, after in zip(frames[:-1], frames[1:], strict=True)]
    assert min(changes) > 0.1 and np.std(frames[0]) > 5


def test_first_animation_draws_a_red_star_that_moves_left(first_animation):
    """The middle of the red pixels goes left by more than 40 of 256 pixels, and red stands out from the rest."""
    middles = []
    with Image.open(io.BytesIO(first_animation)) as clip:
        for index in (0, 15):
            clip.seek(index)
            red, green, blue = np.asarray(clip.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)
            star = red - np.maximum(green, blue) > 60
            assert 500 < star.sum() < 40000
            middles.append(np.nonzero(star)[1].mean())
    assert middles[0] - middles[1] > 40
