"""Latents to video files and back, a few frames at a time, against core's nodes that do all at once."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from pack.nodes.clip_files import DecodeToFile, EncodeFromFile
from pack.nodes.host.files.clips import pictures_of
from pack.nodes.host.model.bundled import load_bundled_models
from pack.unet_motion.video import read_frames, read_graphs, write_video
from sampled import execute


@pytest.fixture(scope="module")
def vae():
    return load_bundled_models()[2]


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def clip(vae):
    """Latents of 11 frames with something to see."""
    pictures = torch.rand(11, 8, 8, 3).repeat_interleave(8, 1).repeat_interleave(6, 2)
    return {"samples": vae.encode(pictures)}


class Counting:
    """A VAE that keeps how many frames it was given at a time."""

    def __init__(self, vae, shape=None):
        self.vae, self.shape, self.sizes = vae, shape, []

    def decode(self, samples):
        self.sizes.append(len(samples))
        return torch.full((len(samples), *self.shape), 0.5) if self.shape else self.vae.decode(samples)

    def spacial_compression_encode(self):
        return self.vae.spacial_compression_encode()

    def encode(self, pictures):
        self.sizes.append(len(pictures))
        return torch.zeros(len(pictures), *self.shape) if self.shape else self.vae.encode(pictures)


def decode(samples, vae, at_once=4, fps=10.0, quality=100, prefix="clip"):
    return execute(DecodeToFile, samples, vae, prefix, fps, quality, at_once)


def encode(video, vae, frames=0, skip=0, every=1, width=0, height=0, at_once=4):
    return EncodeFromFile.execute(video, vae, frames, skip, every, width, height, at_once).result


@pytest.fixture(autouse=True)
def hidden():
    """What a server gives the node."""
    graph = {"1": {"class_type": "UNetMotion_DecodeToFile"}}
    DecodeToFile.hidden = SimpleNamespace(prompt=graph, extra_pnginfo={"workflow": {"nodes": []}})
    yield
    del DecodeToFile.hidden


# latents to a file


@pytest.mark.parametrize("at_once", [1, 4, 11, 256])
def test_the_file_is_that_of_all_frames_at_once(output, vae, clip, at_once):
    counting = Counting(vae)
    video = decode(clip, counting, at_once, quality=80)
    assert max(counting.sizes) == min(at_once, 11) and sum(counting.sizes) == 11
    graphs = {"prompt": DecodeToFile.hidden.prompt, "workflow": {"nodes": []}}
    expected = output / "expected" / "clip.mp4"
    write_video(expected, pictures_of(vae.decode(clip["samples"])), 10.0, quality=80, graphs=graphs)
    (path,) = output.glob("*.mp4")
    found, wanted = (np.stack(list(read_frames(file))).astype(int) for file in (path, expected))
    # One pass over many frames rounds otherwise than one over few.
    assert found.shape == (11, 64, 48, 3) and np.abs(found - wanted).mean() < 0.5
    assert read_graphs(path) == graphs
    assert video.get_stream_source() == str(path) and video.get_components().images.shape == (11, 64, 48, 3)


def test_files_are_numbered_and_prefixes_make_folders(output, vae, clip):
    for _ in range(2):
        decode(clip, vae, prefix="long/clip")
    assert sorted(file.name for file in (output / "long").iterdir()) == ["clip_00001_.mp4", "clip_00002_.mp4"]


@pytest.mark.parametrize(
    ("samples", "shape", "said"),
    [
        (torch.zeros(1, 4, 3, 8, 8), None, r"`samples` has shape \(1, 4, 3, 8, 8\), expected \(frames, channels"),
        (torch.zeros(0, 4, 8, 8), None, "`samples` holds 0 frames, expected at least 1"),
        (torch.zeros(2, 4, 8, 8), (33, 64, 3), "`frames` are 64x33, expected an even width and height for MP4"),
        (torch.zeros(2, 4, 8, 8), (2, 32, 64, 3), r"`vae` gives \(2, 2, 32, 64, 3\) for 2 frames, expected \(frames"),
    ],
)
def test_what_no_file_can_hold_is_refused_before_there_is_one(output, vae, samples, shape, said):
    with pytest.raises(ValueError, match=said):
        decode({"samples": samples}, Counting(vae, shape), prefix="folder/clip")
    assert list(output.iterdir()) == []


def test_an_interrupt_leaves_no_file(output, vae, clip):
    counting = Counting(vae)

    def interrupted(samples, plain=counting.decode):
        if len(counting.sizes) == 1:
            comfy.model_management.interrupt_current_processing(True)
        return plain(samples)

    counting.decode = interrupted
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        decode(clip, counting, 3)
    assert counting.sizes == [3, 3] and [file for file in output.rglob("*") if file.is_file()] == []
    decode(clip, vae)  # the next one works
    assert len(list(output.glob("*.mp4"))) == 1


def test_steps_are_shown(output, vae, clip, monkeypatch):
    shown = []

    def show(bar, value, total=None, preview=None):
        shown.append((value, bar.total))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", show)
    decode(clip, vae, 4)
    assert shown == [(4, 11), (8, 11), (11, 11)]
    shown.clear()
    encode(InputImpl.VideoFromFile(str(next(output.glob("*.mp4")))), vae, frames=7, at_once=3)
    assert [value for value, _ in shown] == [3, 6, 7]


def test_memory_does_not_grow_with_the_frames(output, vae):
    """A frame takes 200 times the memory of its latent; NumPy's arrays are counted, and the VAE keeps none."""

    def peak(count):
        samples = torch.zeros(count, 4, 8, 8)
        tracemalloc.start()
        try:
            video = decode({"samples": samples}, Counting(vae, (128, 128, 3)), 8)
            encode(video, Counting(vae, (4, 16, 16)))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(16)
    assert peak(160) - peak(16) < 4 * 128 * 128 * 3


# a file to latents


@pytest.fixture
def file(output, vae, clip):
    return decode(clip, vae)


@pytest.mark.parametrize("at_once", [1, 4, 20])
def test_latents_are_those_of_vae_encode(file, vae, at_once):
    latent, frames, fps = encode(file, vae, at_once=at_once)
    pictures = torch.from_numpy(np.stack(list(read_frames(file.get_stream_source())))).float() / 255
    assert frames == 11 and fps == 10
    torch.testing.assert_close(latent["samples"], vae.encode(pictures), rtol=1e-4, atol=1e-4)
    core = vae.encode(file.get_components().images)  # its colours are halved and enlarged in another way
    assert (latent["samples"] - core).norm() / core.norm() < 0.1


def test_some_frames_and_their_rate(file, vae):
    whole = encode(file, vae)[0]["samples"]
    latent, frames, fps = encode(file, vae, 3, 1, 4)
    assert frames == 3 and fps == 2.5
    torch.testing.assert_close(latent["samples"], whole[1:10:4], rtol=1e-4, atol=1e-4)


def test_a_video_from_pictures_loses_nothing(vae):
    images = torch.rand(5, 32, 32, 3)
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=12, audio=None))
    latent, frames, fps = encode(video, vae, 2, 1, 2)
    rounded = (images * 255).round() / 255
    torch.testing.assert_close(latent["samples"], vae.encode(rounded[1:4:2]), rtol=1e-4, atol=1e-4)
    assert (frames, fps) == (2, 6)
    for wanted, said in (
        ({"frames": 4, "skip": 2}, "`video` has 5 frames, expected at least 6 for `frames` 4, `skip_first` 2"),
        ({"skip": 5}, "`video` has 5 frames, expected at least 6"),
    ):
        with pytest.raises(ValueError, match=said):
            encode(video, vae, **wanted)


def test_a_trimmed_video_gives_its_part(file, vae):
    trim = getattr(file, "as_trimmed", None)
    if trim is None:
        pytest.skip("this ComfyUI has no trimmed videos")
    latent, frames, _ = encode(trim(0.3, 0.4), vae)
    assert frames == 4
    torch.testing.assert_close(latent["samples"], encode(file, vae)[0]["samples"][3:7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("width", "height", "size"), [(64, 32, (32, 64)), (24, 0, (32, 24)), (0, 128, (128, 96))])
def test_frames_are_scaled_and_cut_around_their_middle(file, vae, width, height, size):
    latent, _, _ = encode(file, vae, 2, width=width, height=height)
    assert latent["samples"].shape == (2, 4, size[0] // 8, size[1] // 8)
    pictures = torch.from_numpy(np.stack(list(read_frames(file.get_stream_source()))[:2])).float() / 255
    scaled = comfy.utils.common_upscale(pictures.movedim(-1, 1), size[1], size[0], "lanczos", "center").movedim(1, -1)
    torch.testing.assert_close(latent["samples"], vae.encode(scaled), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "width", "height", "said"),
    [
        ((64, 32), 72, 3, "32x64 pixels becomes 72x3 with `width` 72 and `height` 3, expected 8 to 16384 pixels"),
        ((64, 32), 7, 64, "becomes 7x64"),
        ((8, 80), 64, 0, "becomes 64x6"),
        ((80, 8), 0, 64, "becomes 6x64"),
        ((4, 2048), 0, 64, "becomes 32768x64"),
        ((7, 64), 0, 0, "becomes 64x7"),
        ((64, 2), 0, 0, "becomes 2x64"),
    ],
)
def test_a_size_that_the_vae_cannot_encode_is_refused_before_frames_are_scaled(
    vae, monkeypatch, shape, width, height, said
):
    video = InputImpl.VideoFromComponents(
        Types.VideoComponents(images=torch.zeros(2, *shape, 3), frame_rate=12, audio=None)
    )
    counting = Counting(vae)
    monkeypatch.setattr(comfy.utils, "common_upscale", lambda *given: pytest.fail("frames were scaled"))
    with pytest.raises(ValueError, match=said):
        encode(video, counting, width=width, height=height)
    assert counting.sizes == []


def test_the_least_size_that_a_vae_encodes_works(vae):
    video = InputImpl.VideoFromComponents(
        Types.VideoComponents(images=torch.rand(2, 64, 32, 3), frame_rate=12, audio=None)
    )
    assert encode(video, vae, width=8, height=8)[0]["samples"].shape == (2, 4, 1, 1)


def test_a_video_that_ends_early_is_named_with_both_numbers(file, vae):
    with pytest.raises(ValueError, match=r"clip_00001_\.mp4 has 11 frames, expected at least 48: `frames` 48 after"):
        encode(file, vae, 48)
    counting = Counting(vae)
    with pytest.raises(ValueError, match="11 frames"):
        encode(file, counting, 12)
    assert counting.sizes == []
