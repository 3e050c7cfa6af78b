"""IMAGE batches on their way into a file: rounding, refusals, and that nothing is left behind."""

from __future__ import annotations

from types import SimpleNamespace

import folder_paths
import numpy as np
import pytest
import torch
from pack.nodes.host.files import clips
from pack.nodes.saving import SaveClip
from pack.unet_motion.video import read_graphs
from PIL import Image


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


def save(images, kind="webp", hidden=None, prefix="clip", quality=100):
    return clips.save_clip(images, prefix, kind, 8.0, quality, hidden)


def test_values_are_rounded_to_the_nearest_and_kept_between_0_and_255():
    levels = torch.arange(256) / 255
    image = levels.repeat(3, 1).T.reshape(1, 16, 16, 3)
    expected = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for shift in (0.0, 0.49 / 255, -0.49 / 255):
        assert np.array_equal(clips.pictures_of(image + shift), expected)
    odd = torch.tensor([-1.0, 2.0, float("nan")]).expand(1, 1, 1, 3)
    assert clips.pictures_of(odd).tolist() == [[[[0, 255, 0]]]]


@pytest.mark.parametrize(
    "shape, words",
    [
        ((0, 8, 8, 3), "`images` holds 0 frames, expected at least 1."),
        ((2, 8, 8, 4), "`images` has shape (2, 8, 8, 4), expected (frames, height, width, 3)."),
        ((8, 8, 3), "`images` has shape (8, 8, 3), expected (frames, height, width, 3)."),
    ],
)
def test_what_is_no_clip_is_refused_before_a_file_is_made(output, shape, words):
    with pytest.raises(ValueError) as error:
        save(torch.zeros(shape), prefix="folder/clip")
    assert str(error.value) == words
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("kind", clips.KINDS)
def test_the_node_writes_each_kind_and_passes_the_pictures_on(output, kind):
    images = torch.rand(3, 16, 24, 3)
    path = _written(images, output, kind, 4.0)
    if kind in ("webp", "gif"):
        with Image.open(path) as file:
            assert file.n_frames == 3
            file.seek(1)
            file.load()
            assert file.info["duration"] == 250
    with pytest.raises(ValueError, match="^`format` is 'bmp', expected one of webp, gif, mp4, sheet.$"):
        SaveClip.execute(images, "clip", "bmp", 4.0, 100)


def _written(images, output, kind, fps):
    found = SaveClip.execute(images, "clip", kind, fps, 100)
    assert found[0] is images
    (path,) = output.iterdir()
    assert path.name == found.ui.as_dict()["images"][0]["filename"]
    return path


@pytest.mark.parametrize("kind", clips.KINDS)
def test_one_frame_is_a_clip(output, kind):
    image = torch.rand(1, 16, 24, 3)
    (entry,) = save(image, kind).as_dict()["images"]
    path = output / entry["filename"]
    assert [file.name for file in output.iterdir()] == [path.name]
    if kind in ("webp", "sheet"):
        assert np.array_equal(np.asarray(Image.open(path)), clips.pictures_of(image)[0])


@pytest.mark.parametrize("kind", clips.KINDS)
def test_a_prefix_of_240_characters_is_a_name_and_a_longer_one_a_sentence(output, kind):
    (entry,) = save(torch.zeros(2, 8, 8, 3), kind, prefix="a" * 240).as_dict()["images"]
    assert entry["filename"].startswith("a" * 240) and [file.name for file in output.iterdir()] == [entry["filename"]]
    with pytest.raises(OSError) as error:
        save(torch.zeros(2, 8, 8, 3), kind, prefix="b" * 250)
    assert "File name too long" in str(error.value)
    assert len(list(output.iterdir())) == 1


@pytest.mark.parametrize("kind", ["webp", "mp4"])
def test_quality_acts_on_what_has_one(output, kind):
    frames = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    sizes = [
        (output / save(frames, kind, quality=quality).as_dict()["images"][0]["filename"]).stat().st_size
        for quality in (100, 80, 20)
    ]
    assert sizes[2] < 0.6 * sizes[1] < 0.6 * 0.9 * sizes[0]


@pytest.mark.parametrize("kind", ["gif", "sheet"])
def test_a_quality_that_a_kind_has_not_changes_nothing(output, kind):
    frames = torch.rand(2, 8, 8, 3)
    first, second = (save(frames, kind, quality=quality).as_dict()["images"][0]["filename"] for quality in (100, 20))
    assert (output / first).read_bytes() == (output / second).read_bytes()


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_equal_frames_are_as_many_as_were_given(output, kind):
    (entry,) = save(torch.full((12, 8, 8, 3), 0.5), kind).as_dict()["images"]
    assert Image.open(output / entry["filename"]).n_frames == 12


def test_a_prompt_without_a_workflow_is_kept(output):
    """API users send no workflow; the page then opens the prompt."""
    prompt = {"1": {"class_type": "UNetMotion_LoadBundled", "inputs": {}}}
    for hidden in (SimpleNamespace(prompt=prompt, extra_pnginfo=None), SimpleNamespace(prompt=prompt)):
        (entry,) = save(torch.zeros(2, 8, 8, 3), hidden=hidden).as_dict()["images"]
        assert read_graphs(output / entry["filename"]) == {"prompt": prompt}
