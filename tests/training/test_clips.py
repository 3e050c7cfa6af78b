import json

import numpy as np
import pytest
import torch
from PIL import Image

from unet_motion.bundled.autoencoder import Autoencoder
from unet_motion.training.data.clip_files import ClipOptions, find_clips, nearest_bucket, read_clip
from unet_motion.training.data.dataset import ClipDataset, ClipEncoder
from unet_motion.video import write_video

SIZE = ((16, 16),)


def grey(values, height=16, width=16):
    """Frames of one grey each, uint8 (F, height, width, 3)."""
    return np.stack([np.full((height, width, 3), v, np.uint8) for v in values])


def random_frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def halves(called=None):
    """An encoder of 2x2 means of the first channel that counts its calls."""

    def pictures(x):
        if called is not None:
            called.append(len(x))
        return torch.nn.functional.avg_pool2d(x[:, :1], 8)

    return ClipEncoder("halves", pictures, lambda caption: {"length": torch.tensor([float(len(caption))])})


@pytest.mark.parametrize("name", ["clip.webp", "clip"])
def test_lossless_frames_come_back_bit_for_bit(tmp_path, name):
    frames = random_frames(5)
    write_video(tmp_path / name, frames, fps=8)
    assert np.array_equal(read_clip(tmp_path / name, ClipOptions(frames=5, buckets=SIZE)), frames)


def test_a_video_is_read_at_the_rate_and_stride_asked_for(tmp_path):
    pytest.importorskip("av")
    values = np.arange(12) * 20
    write_video(tmp_path / "clip.mp4", grey(values), fps=12)

    def seen(**how):
        frames = read_clip(tmp_path / "clip.mp4", ClipOptions(frames=1, buckets=SIZE, **how))
        return np.rint(frames.mean((1, 2, 3)) / 20).astype(int).tolist()

    assert seen() == list(range(12))
    assert seen(fps=6.0) == [0, 2, 4, 6, 8, 10]
    assert seen(fps=24.0) == [i for i in range(12) for _ in range(2)]
    assert seen(fps=6.0, stride=2) == [0, 4, 8]
    assert seen(stride=5) == [0, 5, 10]


def test_a_video_whose_first_frame_has_a_later_time_is_read_from_there(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for number, time in enumerate((30, 31, 32, 36, 37)):  # tenths of a second: the third is shown for long
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 40 * number, np.uint8), format="rgb24")
            frame.pts = time
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    frames = read_clip(tmp_path / "clip.mkv", ClipOptions(frames=1, buckets=SIZE, fps=10.0))
    assert np.rint(frames.mean((1, 2, 3)) / 40).astype(int).tolist() == [0, 1, 2, 2, 2, 2, 3, 4]


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_are_sampled_by_how_long_each_frame_is_shown(tmp_path, suffix):
    images = [Image.fromarray(frame) for frame in grey([0, 100, 200])]
    images[0].save(
        tmp_path / f"c.{suffix}", save_all=True, append_images=images[1:], duration=[100, 300, 200], lossless=True
    )
    frames = read_clip(tmp_path / f"c.{suffix}", ClipOptions(frames=1, fps=10, buckets=SIZE))
    assert frames[:, 0, 0, 0].tolist() == [0, 100, 100, 100, 200, 200]


def test_a_clip_gets_the_bucket_of_its_shape_and_is_cut_at_its_centre(tmp_path):
    buckets = ((16, 16), (32, 16), (16, 32))
    assert [nearest_bucket(size, buckets) for size in ((90, 100), (160, 90), (9, 16))] == list(buckets)
    frames = np.zeros((2, 16, 20, 3), np.uint8)
    frames[:, :, 2:18] = 255
    write_video(tmp_path / "c", frames)
    assert (read_clip(tmp_path / "c", ClipOptions(frames=2, buckets=buckets)) == 255).all()


def test_captions_come_from_the_table_or_else_from_the_text_beside(tmp_path):
    for name in ("a.webp", "b.webp", "c"):
        write_video(tmp_path / name, random_frames(2))
    (tmp_path / "a.txt").write_text("overruled")
    (tmp_path / "c.txt").write_text("a walk\n")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.webp", "text": "a wave"}) + "\n\n")
    assert [(s.path.name, s.caption) for s in find_clips(tmp_path)] == [
        ("a.webp", "a wave"),
        ("b.webp", ""),
        ("c", "a walk"),
    ]


@pytest.mark.parametrize("line", ['{"file_name": "a.webp"}', "[1]", "{", '{"file_name": "gone.mp4", "text": "x"}'])
def test_a_bad_line_of_the_table_is_named(tmp_path, line):
    write_video(tmp_path / "a.webp", random_frames(2))
    (tmp_path / "metadata.jsonl").write_text("\n" + line)
    with pytest.raises(ValueError, match=r"metadata\.jsonl: line 2"):
        find_clips(tmp_path)


def test_unreadable_and_short_files_are_named_and_skipped_and_none_left_is_an_error(tmp_path):
    pytest.importorskip("av")
    data = tmp_path / "data"
    write_video(data / "short.webp", random_frames(3))
    for name in ("noise.mp4", "noise.gif", "empty.webp"):
        (data / name).write_bytes(b"" if "empty" in name else b"not a clip at all" * 9)
    bad = ["empty.webp", "noise.gif", "noise.mp4", "short.webp"]
    options = ClipOptions(frames=4, buckets=SIZE)
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ValueError) as error:
        ClipDataset(data, halves(), options, tmp_path / "cache")
    assert all(name in str(error.value) for name in bad)
    write_video(data / "good.webp", random_frames(4))
    with pytest.warns(UserWarning, match="skipped"):
        clips = ClipDataset(data, halves(), options, tmp_path / "cache")
    assert [source.path.name for source in clips.sources] == ["good.webp"]
    assert len(clips.skipped) == 4 and all(name in line for name, line in zip(bad, clips.skipped, strict=True))
    with pytest.raises(ValueError, match="no clips"):
        ClipDataset(tmp_path / "cache", halves(), options, tmp_path / "cache")


def test_latents_are_encoded_once_for_each_content_and_setting(tmp_path):
    data, cache, called = tmp_path / "data", tmp_path / "cache", []
    write_video(data / "a.webp", random_frames(6))
    options = ClipOptions(frames=4, buckets=SIZE)
    first = ClipDataset(data, halves(called), options, cache)
    assert called == [6]
    (data / "a.webp").rename(data / "renamed.webp")
    again = ClipDataset(data, halves(called), options, cache)
    assert called == [6] and torch.equal(first.latents[0]["latents"], again.latents[0]["latents"])
    ClipDataset(data, halves(called), ClipOptions(frames=3, stride=2, buckets=SIZE), cache)
    assert called == [6, 3]
    write_video(data / "renamed.webp", random_frames(6, seed=1))
    changed = ClipDataset(data, halves(called), options, cache)
    assert called == [6, 3, 6] and not torch.equal(first.latents[0]["latents"], changed.latents[0]["latents"])


def test_a_damaged_cache_is_made_again(tmp_path):
    write_video(tmp_path / "data" / "a.webp", random_frames(4))
    how = (tmp_path / "data", halves(), ClipOptions(frames=4, buckets=SIZE), tmp_path / "cache")
    first = ClipDataset(*how)
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    again = ClipDataset(*how)
    assert torch.equal(first.latents[0]["latents"], again.latents[0]["latents"])
    assert torch.equal(ClipDataset(*how).latents[0]["latents"], first.latents[0]["latents"])


def test_drawn_clips_are_windows_of_their_source_and_their_mirror_images(tmp_path):
    frames = random_frames(7)
    write_video(tmp_path / "data" / "a.webp", frames)
    (tmp_path / "data" / "a.txt").write_text("four")
    clips = ClipDataset(tmp_path / "data", halves(), ClipOptions(frames=4, buckets=SIZE, flip=True), tmp_path / "cache")
    means = torch.from_numpy(frames[..., 0].reshape(7, 2, 8, 2, 8).mean((2, 4)) / 255).float()
    windows = {(s, flip): (m.flip(-1) if flip else m) for s in range(4) for flip in (0, 1) for m in [means[s : s + 4]]}
    generator, seen = torch.Generator().manual_seed(3), set()
    for _ in range(30):
        batch = clips.draw(generator, 2)
        assert batch["length"].tolist() == [[4.0], [4.0]]
        for clip in batch["latents"]:
            fits = [which for which, window in windows.items() if torch.allclose(clip[:, 0], window, atol=1e-5)]
            assert len(fits) == 1
            seen.update(fits)
    assert seen == set(windows)


def test_a_restored_generator_draws_the_same_clips_and_batches_share_one_size(tmp_path):
    write_video(tmp_path / "data" / "a.webp", random_frames(9))
    write_video(tmp_path / "data" / "b.webp", grey(range(9), 16, 32))
    options = ClipOptions(frames=4, buckets=((16, 16), (32, 16)))
    clips = ClipDataset(tmp_path / "data", halves(), options, tmp_path / "cache")
    generator = torch.Generator().manual_seed(1)
    clips.draw(generator, 3)
    state = generator.get_state()
    first = [clips.draw(generator, 3) for _ in range(12)]
    generator.set_state(state)
    for batch in first:
        again = clips.draw(generator, 3)
        assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert {tuple(batch["latents"].shape) for batch in first} == {(3, 4, 1, 2, 2), (3, 4, 1, 2, 4)}


def test_the_bundled_autoencoder_encodes_clips_as_it_encodes_pictures(tmp_path):
    torch.manual_seed(0)
    model, frames = Autoencoder().eval(), random_frames(4)
    write_video(tmp_path / "data" / "a", frames)
    encoder = ClipEncoder("random", model.encode, lambda caption: {})
    clips = ClipDataset(tmp_path / "data", encoder, ClipOptions(frames=4, buckets=SIZE), tmp_path / "cache")
    drawn = clips.draw(torch.Generator().manual_seed(0))["latents"][0]
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize("bad", [{"frames": 0}, {"stride": 0}, {"fps": 0.0}, {"buckets": ((10, 16),)}, {"buckets": ()}])
def test_options_out_of_range_are_named(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        ClipOptions(**bad)
