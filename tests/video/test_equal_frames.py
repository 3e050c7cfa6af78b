"""Animations hold as many frames as were given, whatever encoders do with those that look alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from unet_motion import video
from unet_motion.video import animations


def shown(data: bytes) -> tuple[np.ndarray, list[int]]:
    """Pictures of an animation, uint8 (F, H, W, 3), and their durations in milliseconds."""
    pictures, durations = [], []
    with Image.open(io.BytesIO(data)) as image:
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            image.load()
            pictures.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(pictures), durations


def with_runs(rng, count: int) -> np.ndarray:
    """A clip of any size in which frames stay, change in a corner or as a whole, and come back."""
    height, width = rng.integers(1, 40, 2)
    first = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    frames = [first]
    while len(frames) < count:
        frame = frames[-1].copy()
        kind = rng.integers(4)
        if kind == 1:
            y, x = rng.integers(height), rng.integers(width)
            frame[y : y + 9, x : x + 9] = rng.integers(0, 256, 3)
        elif kind == 2:
            frame = rng.integers(0, 256, frame.shape, dtype=np.uint8)
        elif kind == 3:
            frame = first
        frames.append(frame)
    return np.stack(frames)


@pytest.mark.parametrize("suffix, quality", [(".webp", None), (".webp", 70), (".gif", None)])
def test_twelve_equal_frames_are_twelve(tmp_path, suffix, quality):
    still = np.full((12, 20, 32, 3), (250, 40, 10), np.uint8)
    data = video.write_video(tmp_path / f"still{suffix}", still, fps=8, quality=quality).read_bytes()
    pictures, durations = shown(data)
    assert len(pictures) == 12 and sum(durations) == 1500 and max(durations) <= 130
    assert np.abs(pictures.astype(int) - still).max() <= (0 if quality is None else 6)
    # A frame that changes nothing costs next to nothing.
    one = video.write_video(tmp_path / f"one{suffix}", still[:1], quality=quality).read_bytes()
    assert len(data) < len(one) + 12 * 80


def test_any_clip_of_a_lossless_webp_comes_back_frame_by_frame():
    rng = np.random.default_rng()
    for _ in range(60):
        frames = with_runs(rng, int(rng.integers(2, 14)))
        durations = rng.integers(1, 500, len(frames)).tolist()
        pictures, found = shown(animations.encode_webp([Image.fromarray(f) for f in frames], durations))
        assert np.array_equal(pictures, frames) and found == durations


def test_any_clip_of_a_gif_comes_back_frame_by_frame():
    rng = np.random.default_rng()
    for _ in range(60):
        frames = with_runs(rng, int(rng.integers(2, 14)))
        images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
        durations = rng.integers(1, 500, len(frames)).tolist()
        pictures, found = shown(animations.encode_gif(images, durations))
        assert np.array_equal(pictures, [np.asarray(image.convert("RGB")) for image in images])
        assert found == [10 * duration for duration in durations]


def test_a_lossy_webp_shows_what_its_encoder_made_of_each_frame():
    """Lossy, frames are joined that are nearly alike: each is what Pillow alone writes, as often as it stands for."""
    rng = np.random.default_rng()
    for _ in range(40):
        frames = with_runs(rng, int(rng.integers(2, 14)))
        images = [Image.fromarray(frame) for frame in frames]
        durations = rng.integers(1, 500, len(frames)).tolist()
        quality = int(rng.integers(0, 101))
        plain = io.BytesIO()
        rest = {"save_all": True, "append_images": images[1:], "duration": 1}
        images[0].save(plain, "WEBP", lossless=False, quality=quality, method=4, **rest)
        joined, counts = shown_joined(plain.getvalue(), len(frames))
        data = animations.encode_webp(images, durations, lossless=False, quality=quality)
        pictures, found = shown(data)
        assert np.array_equal(pictures, joined.repeat(counts, axis=0)) and found == durations


def shown_joined(data: bytes, count: int) -> tuple[np.ndarray, list[int]]:
    with Image.open(io.BytesIO(data)) as image:
        if not getattr(image, "is_animated", False):
            return np.asarray(image.convert("RGB"))[None], [count]
    return shown(data)


def test_a_frame_whose_area_is_cleared_after_it_is_cleared_after_the_last_that_equals_it():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    frames[1, 8:16] = frames[0, 8:16]
    frames[1, :, :8] = frames[0, :, :8]
    file = io.BytesIO()
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(file, "WEBP", save_all=True, append_images=images[1:], duration=[1, 3, 1], lossless=True)
    data = bytearray(file.getvalue())
    second = data.index(b"ANMF", data.index(b"ANMF") + 4)
    data[second + 8 + 15] |= 1
    joined, counts = shown(bytes(data))
    assert counts == [1, 3, 1]
    pictures, durations = shown(animations._separate_webp(bytes(data), [10, 20, 30, 40, 50], 0))
    assert durations == [10, 20, 30, 40, 50]
    assert np.array_equal(pictures, joined.repeat(counts, axis=0))


def test_a_clip_of_equal_frames_plays_as_often_as_it_is_told(tmp_path):
    still = np.zeros((3, 8, 8, 3), np.uint8)
    for loop, times in ((True, 0), (False, 1)):
        with Image.open(video.write_video(tmp_path / "a.webp", still, loop=loop, metadata={"seed": 7})) as image:
            assert image.info["loop"] == times
        assert video.read_metadata(tmp_path / "a.webp") == {"seed": 7}


def test_one_frame_is_a_still_picture(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3), dtype=np.uint8)
    with Image.open(video.write_video(tmp_path / "a.webp", frame)) as image:
        assert not getattr(image, "is_animated", False)
        assert np.array_equal(np.asarray(image.convert("RGB")), frame[0])
