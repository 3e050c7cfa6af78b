"""The example workflows, from the saved file to the finished clip."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.clips import frames_of, middle_of
from tests.comfyui.graphs import WIDGETS, from_workflow
from tests.comfyui.installations import ROOT
from unet_motion.video import read_frames


def graph_of(server, name):
    """The workflow of a file as an API graph, with its widgets as they were saved."""
    workflow = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text())
    return from_workflow(workflow, server.get("/object_info"))


def clip_of(server, graph):
    """The bytes of the one animation that a graph saves."""
    run = server.run(graph)
    assert run.error is None, run.error
    images = [image for output in run.outputs.values() for image in output.get("images", ())]
    (entry,) = (image for image in images if image["type"] == "output")
    return server.file(entry)


@pytest.fixture(scope="module")
def first_animation(server):
    return clip_of(server, graph_of(server, "first_animation"))


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


def test_a_star_travels_from_red_to_blue_while_it_moves_left(server):
    frames = frames_of(clip_of(server, graph_of(server, "prompt_travel")))
    assert frames.shape[0] == 16
    red, blue = (frames[:, :, :, channel].mean((1, 2)) for channel in (0, 2))
    assert (red - blue)[:6].min() > 0 > (red - blue)[10:].max()
    assert middle_of(frames[0], 0) - middle_of(frames[-1], 2) > 40


def test_freeu_changes_its_branch_and_another_attention_kernel_changes_nothing(server):
    frames = frames_of(clip_of(server, graph_of(server, "freeu_and_attention_side_by_side")))
    assert frames.shape == (16, 256, 800, 3)
    plain, freeu, attention = (frames[:, :, start : start + 256] for start in (0, 272, 544))
    assert np.abs(plain - attention).mean() < 0.5
    assert np.abs(plain - freeu).mean() > 2
    assert np.abs(plain[0] - plain[8]).mean() > 1


def test_a_motion_lora_that_comes_with_the_pack_brings_the_camera_closer(server):
    frames = frames_of(clip_of(server, graph_of(server, "bundled_motion_lora"))).astype(float)
    red, green, blue = frames.transpose(3, 0, 1, 2)
    size = (red - np.maximum(green, blue) > 60).sum(axis=(1, 2))
    assert frames.shape[0] == 16 and size[-1] > 1.2 * size[0] > 600


def test_a_motion_lora_pans_in_the_first_half_of_a_clip_and_not_in_the_other(server):
    """The star goes right while the camera pans to the left, and then stands, where without the LoRA it always does."""
    middles = [middle_of(frame, 0) for frame in frames_of(clip_of(server, graph_of(server, "lora_on_some_frames")))]
    steps = np.diff(middles)
    assert len(middles) == 16 and middles[7] - middles[0] > 8 and steps[:6].min() > 0.5
    assert np.abs(steps[8:]).max() < 2 and abs(middles[15] - middles[8]) < 4


def test_a_picture_of_a_red_square_begins_to_move_left(server):
    frames = frames_of(clip_of(server, graph_of(server, "image_to_animation")))
    assert frames.shape[0] == 16
    picture, clip = frames[:, :, :256], frames[:, :, 272:]
    assert abs(middle_of(picture[0], 0) - middle_of(picture[-1], 0)) < 1
    assert middle_of(clip[0], 0) - middle_of(clip[-1], 0) > 20


def test_a_video_of_a_red_star_becomes_one_of_a_blue_star_that_moves_as_it_did(server):
    frames = frames_of(clip_of(server, graph_of(server, "video_to_video")))
    before, after = frames[:, :, :256], frames[:, :, 272:]
    went = middle_of(before[0], 0) - middle_of(before[-1], 0)
    assert went > 40
    assert middle_of(after[0], 2) - middle_of(after[-1], 2) == pytest.approx(went, rel=0.5)


def test_a_long_video_of_a_red_star_becomes_one_of_a_blue_star(server, tmp_path):
    """Both files of it, written and read a few frames at a time."""
    pytest.importorskip("av", reason="MP4 needs the extra `video`")
    graph = graph_of(server, "long_video_to_video")
    for node in graph.values():  # shorter and coarser than the template: what is red and what blue shows all the same
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 6
        if "batch_size" in node["inputs"]:
            node["inputs"]["batch_size"] = 20
    run = server.run(graph)
    assert run.error is None, run.error
    entries = [image for output in run.outputs.values() for image in output.get("images", ())]
    clips = {}
    for entry in entries:
        path = tmp_path / entry["filename"]
        path.write_bytes(server.file(entry))
        clips[path.name.split("_0")[0]] = np.stack(list(read_frames(path))).astype(np.float32)
    before, after = clips["long_before"], clips["long_after"]
    assert before.shape == after.shape == (20, 64, 64, 3)
    more_red = [(clip[..., 0] - clip[..., 2]).mean() for clip in (before, after)]
    assert more_red[0] > 3 and more_red[1] < -3


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_workflows_have_a_value_for_every_widget_of_the_packs_nodes(server, path):
    info = server.get("/object_info")
    for node in graph_of(server, path.stem).values():
        if node["class_type"].startswith("UNetMotion_"):
            inputs = info[node["class_type"]]["input"]
            names = {name for part in inputs.values() for name, (kind, *_) in part.items() if kind in WIDGETS}
            assert names <= set(node["inputs"]), node["class_type"]


def in_fewer_steps(server, name, steps):
    graph = graph_of(server, name)
    (sampler,) = (node for node in graph.values() if node["class_type"] == "KSampler")
    sampler["inputs"]["steps"] = steps
    return frames_of(clip_of(server, graph))


def test_the_long_clip_is_of_one_thing(server):
    frames = in_fewer_steps(server, "long_clip", 4)
    assert frames.shape == (48, 256, 256, 3)
    green = (frames[..., 1] - np.maximum(frames[..., 0], frames[..., 2]) > 60).mean(axis=(1, 2))
    assert green.min() > 0.02 and green.max() < 0.3
    assert np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).min() > 0.05


def test_the_loop_goes_on_from_its_last_frame_to_its_first(server):
    frames = in_fewer_steps(server, "closed_loop", 5)
    assert frames.shape == (24, 256, 256, 3)
    steps = np.abs(np.roll(frames, -1, 0) - frames).mean(axis=(1, 2, 3))
    assert steps[-1] < 1.5 * np.median(steps[:-1])
    assert np.abs(frames[0] - frames[7]).mean() > 2
