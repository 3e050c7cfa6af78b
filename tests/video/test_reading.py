"""Frames out of video files: which ones, what is said where there are too few, and streams into files."""

import io
import tracemalloc

import numpy as np
import pytest

from unet_motion import video
from unet_motion.video import FrameRange, frame_rate, read_frames

av = pytest.importorskip("av", reason="video files need the extra `video`")


@pytest.fixture(scope="module")
def frames():
    """30 frames that each have another grey."""
    return np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(48, 2).repeat(3, 3) * 8 + 4


@pytest.fixture(scope="module")
def path(frames, tmp_path_factory):
    return video.write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames, fps=10)


def numbers(found):
    """Which frames they are."""
    return [round((float(frame.mean()) - 4) / 8) for frame in found]


def test_all_frames_in_their_order(path, frames):
    found = list(read_frames(path))
    assert numbers(found) == list(range(30)) and frame_rate(path) == 10
    assert all(frame.shape == (32, 48, 3) and frame.dtype == np.uint8 for frame in found)
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(found, frames, strict=True)) <= 3
    assert numbers(read_frames(io.BytesIO(path.read_bytes()))) == list(range(30))


def test_colours_are_those_that_were_written(tmp_path):
    """Which matrix turns them to RGB stands in the file."""
    colours = np.array([(220, 40, 30), (30, 200, 60), (40, 60, 230), (240, 220, 30), (128, 128, 128)], np.uint8)
    path = video.write_video(tmp_path / "clip.mp4", colours[:, None, None].repeat(32, 1).repeat(40, 2))
    found = np.stack([frame.mean((0, 1)) for frame in read_frames(path)])
    assert np.abs(found - colours).max() < 3


@pytest.mark.parametrize("wanted", [(5,), (0, 7), (4, 3, 5), (0, 1, 4), (1, 29), (30,), (10, 2, 3)])
def test_some_frames(path, wanted):
    count, skip, every = (*wanted, *(0, 0, 1)[len(wanted) :])
    expected = list(range(30))[skip::every][: count or None]
    assert numbers(read_frames(path, FrameRange(count, skip, every))) == expected


def test_a_part_of_the_time(path):
    assert numbers(read_frames(path, FrameRange(start=1.0, duration=0.5))) == [10, 11, 12, 13, 14]
    assert numbers(read_frames(path, FrameRange(0, 1, 2, start=2.5))) == [26, 28]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ((31,), "clip.mp4 has 30 frames, expected at least 31: `frames` 31 after `skip_first` 0."),
        ((8, 3, 4), "clip.mp4 has 30 frames, expected at least 32: `frames` 8 every 4 after `skip_first` 3."),
        ((0, 30), "clip.mp4 has 30 frames, expected more than `skip_first`, which is 30."),
        ((10, 0, 1, 2.5), "clip.mp4 has 5 frames, expected at least 10"),
    ],
)
def test_too_few_frames_are_named_with_both_numbers(path, wanted, said):
    with pytest.raises(ValueError, match="^" + said.replace(".", r"\.")):
        list(read_frames(path, FrameRange(*wanted)))


def test_what_the_file_says_is_compared_before_any_frame_is_given(path):
    with pytest.raises(ValueError, match="30 frames"):
        next(read_frames(path, FrameRange(31)))


def cut(to, container, share=0.6):
    """The same frames in another container, of which only a part came over."""
    noise = np.random.default_rng(0)
    options = {"movflags": "faststart"} if container == "mp4" else {}
    target = to.with_suffix(".whole")
    with av.open(str(target), "w", format=container, options=options) as file:
        stream = file.add_stream("libx264", rate=12)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(60):
            picture = noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    whole = target.read_bytes()
    to.write_bytes(whole[: int(len(whole) * share)])
    return to


def test_a_video_that_ends_early_is_named_and_its_start_can_be_read(tmp_path):
    damaged = cut(tmp_path / "damaged.mp4", "mp4")
    with pytest.raises(ValueError, match=r"^damaged\.mp4 is damaged behind frame (\d+) \(.*`frames` \1 only") as said:
        list(read_frames(damaged))
    count = int(str(said.value).split("behind frame ")[1].split()[0])
    assert len(list(read_frames(damaged, FrameRange(count)))) == count > 20
    short = cut(tmp_path / "short.mkv", "matroska")
    with pytest.raises(ValueError, match=r"^short\.mkv ends early: (\d+) frames, up to .* of 5\.0 s; with `frames` \1"):
        list(read_frames(short))
    with pytest.raises(ValueError, match=r"^short\.mkv has \d+ frames, expected at least 60"):
        list(read_frames(short, FrameRange(60)))
    assert len(list(read_frames(short, FrameRange(30)))) == 30


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"^text\.mp4 is no video that can be read \("):
        list(read_frames(tmp_path / "text.mp4"))
    with pytest.raises(ValueError, match=r"^none\.mp4 does not exist, expected a video file\."):
        list(read_frames(tmp_path / "none.mp4"))
    with pytest.raises(ValueError, match="^the video is no video"):
        frame_rate(io.BytesIO(b"not a video"))
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(ValueError, match=r"^sound\.wav has no video in it that can be read\."):
        list(read_frames(tmp_path / "sound.wav"))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"frames": -1}, "`frames` is -1, expected at least 0"),
        ({"every_nth": 0}, "`every_nth` is 0, expected at least 1"),
        ({"start": float("nan")}, "`start` is nan"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(wanted, said):
    with pytest.raises(ValueError, match=said):
        FrameRange(**wanted)


def test_turned_pictures_stand_upright():
    from types import SimpleNamespace

    from unet_motion.video.reading import _upright

    picture = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    for degrees, turns in ((0, 0), (90, 1), (-90, 3), (180, 2)):
        frame = SimpleNamespace(to_ndarray=lambda format: picture, rotation=degrees)
        assert np.array_equal(_upright(frame), np.rot90(picture, turns))


# streams into files


def test_a_stream_is_the_file_of_all_frames_at_once(tmp_path, frames):
    graphs = {"prompt": {"1": {}}, "workflow": {"nodes": []}}
    count = video.write_frames(tmp_path / "stream.mp4", iter(frames), 10, {"seed": 3}, graphs=graphs, quality=70)
    video.write_video(tmp_path / "whole.mp4", frames, 10, {"seed": 3}, graphs=graphs, quality=70)
    assert count == 30 and (tmp_path / "stream.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert video.read_metadata(tmp_path / "stream.mp4") == {"seed": 3}


def test_an_error_on_the_way_leaves_the_old_file(tmp_path, frames):
    def failing():
        yield from frames[:20]
        raise RuntimeError("out of frames")

    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="out of frames"):
        video.write_frames(path, failing())
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    for given, said in (
        ([], "found 0 frames, expected at least 1"),
        ([frames[0], frames[0][:16]], "frame 1 is 48x16, expected 48x32"),
        ([frames[0][:31]], "`frames` are 48x31, expected an even width and height for MP4"),
    ):
        with pytest.raises(ValueError, match=said):
            video.write_frames(path, given)
    with pytest.raises(ValueError, match=r"clip\.webp is no MP4, expected a name that ends in \.mp4"):
        video.write_frames(tmp_path / "clip.webp", frames)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_memory_does_not_grow_with_the_frames(tmp_path):
    def peak(count):
        tracemalloc.start()
        try:
            video.write_frames(tmp_path / "clip.mp4", (np.full((64, 64, 3), i % 256, np.uint8) for i in range(count)))
            for _ in read_frames(tmp_path / "clip.mp4"):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(8)
    assert peak(400) - peak(40) < 10 * 64 * 64 * 3
