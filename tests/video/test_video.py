"""Files with frames: what is written is read back, whole or not at all, and with the settings inside."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from unet_motion import video
from unet_motion.files.atomic import atomic_file, atomic_folder

SETTINGS = {"prompt": 'a réd "star" \u661f', "seed": 2**63 + 1, "guidance": 3.5, "negative_prompt": ""}
KINDS = ["clip.webp", "clip.gif", "clip.png", "clip.mp4", "clip"]


@pytest.fixture
def frames():
    """A bright square that moves to the right over a gradient: 12 frames of 20 x 32."""
    clip = np.zeros((12, 20, 32, 3), np.uint8)
    clip[..., 2] = np.arange(0, 160, 5, dtype=np.uint8)
    for i, frame in enumerate(clip):
        frame[6:14, i : i + 8] = (250, 40, 10)
    return clip


def decode(path):
    """The pictures of an animation, and their durations in milliseconds."""
    with Image.open(path) as image:
        pictures, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()  # a WebP knows the duration only once the frame is decoded
            pictures.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(pictures), durations


def test_webp_is_lossless_and_in_time(tmp_path, frames):
    pictures, durations = decode(video.write_video(tmp_path / "clip.webp", frames, fps=8))
    assert np.array_equal(pictures, frames)
    assert sum(durations) == 1500


@pytest.fixture
def noisy(frames):
    """The clip under noise, which costs a file what its quality is worth."""
    noise = np.random.default_rng(0).integers(0, 24, frames.repeat(4, 1).repeat(4, 2).shape, dtype=np.uint8)
    return np.minimum(frames.repeat(4, 1).repeat(4, 2), 231) + noise


def error_of(path, frames):
    """The mean distance of a colour from what was written, 0 to 255."""
    return np.abs(pictures_of(path).astype(int) - frames).mean()


def pictures_of(path):
    if path.suffix != ".mp4":
        return decode(path)[0]
    with pytest.importorskip("av", reason="MP4 needs the extra `video`").open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("fps", [np.float32(7.5), np.int64(8), Fraction(15, 2)])
def test_rates_of_other_numeric_types_reach_every_kind(tmp_path, fps):
    av = pytest.importorskip("av")
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    for kind in ("webp", "gif", "mp4"):
        video.write_video(tmp_path / f"clip.{kind}", frames, fps)
    with av.open(str(tmp_path / "clip.mp4")) as file:
        assert float(file.streams.video[0].average_rate) == float(fps)


@pytest.mark.parametrize("suffix, worst", [(".webp", 0.0), (".mp4", 5.2)])
def test_less_quality_is_smaller_and_less_exact(tmp_path, noisy, suffix, worst):
    if suffix == ".mp4":
        pytest.importorskip("av", reason="MP4 needs the extra `video`")
    paths = [
        video.write_video(tmp_path / f"{quality}{suffix}", noisy, quality=quality) for quality in (None, 90, 50, 10)
    ]
    sizes = [path.stat().st_size for path in paths]
    errors = [error_of(path, noisy) for path in paths]
    assert errors[0] <= worst  # of an MP4 it is the noise of single pixels in the colours, which it halves
    for i in range(3):
        assert sizes[i + 1] < 0.8 * sizes[i], sizes
        assert errors[i + 1] > errors[i] + 0.05, errors
    assert errors[-1] < 8


def test_the_best_quality_of_an_mp4_is_that_of_none(tmp_path, noisy):
    pytest.importorskip("av", reason="MP4 needs the extra `video`")
    best, none = (video.write_video(tmp_path / f"{q}.mp4", noisy, quality=q) for q in (100, None))
    assert best.read_bytes() == none.read_bytes()


def test_gif_has_the_colours_and_the_total_time(tmp_path, frames):
    pictures, durations = decode(video.write_video(tmp_path / "clip.gif", frames, fps=8))
    assert len(pictures) == len(frames) and np.abs(pictures.astype(int) - frames).max() <= 4
    assert set(durations) == {120, 130} and sum(durations) == 1500


def test_folder_and_contact_sheet_hold_the_frames(tmp_path, frames):
    folder = video.write_video(tmp_path / "clip", frames)
    read = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    assert np.array_equal(np.stack(read), frames)
    sheet = np.asarray(Image.open(video.write_video(tmp_path / "clip.png", frames)))
    assert sheet.shape == (3 * 22 - 2, 4 * 34 - 2, 3)
    assert np.array_equal(sheet[22:42, 34:66], frames[5])


def test_mp4_holds_the_frames_in_order(tmp_path, frames):
    av = pytest.importorskip("av", reason="MP4 needs the extra `video`")
    large = frames.repeat(4, 1).repeat(4, 2)
    path = video.write_video(tmp_path / "clip.mp4", large, fps=8)
    with av.open(str(path)) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)
        assert container.streams.video[0].average_rate == 8
    assert pictures.shape == large.shape
    for i, picture in enumerate(pictures):
        errors = np.abs(picture - large).mean(axis=(1, 2, 3))
        assert errors.argmin() == i and errors[i] < 1.5  # colours have half the resolution


@pytest.mark.parametrize("name", KINDS)
def test_settings_come_back_and_the_same_call_gives_the_same_bytes(tmp_path, frames, name):
    if name.endswith("mp4"):
        pytest.importorskip("av", reason="MP4 needs the extra `video`")
    first = video.write_video(tmp_path / name, frames, metadata=SETTINGS)
    second = video.write_video(tmp_path / "again" / name, frames, metadata=SETTINGS)
    assert video.read_metadata(first) == SETTINGS
    files = [(a, second / a.name) for a in first.iterdir()] if first.is_dir() else [(first, second)]
    assert all(a.read_bytes() == b.read_bytes() for a, b in files)


@pytest.mark.parametrize("name", KINDS)
def test_graphs_come_back_beside_the_settings(tmp_path, frames, name):
    if name.endswith("mp4"):
        pytest.importorskip("av", reason="MP4 needs the extra `video`")
    graphs = {"workflow": {"nodes": [{"title": 'é: "星"', "id": 2**53}]}, "prompt": {"3": {"class_type": "KSampler"}}}
    first, second = (
        video.write_video(tmp_path / folder / name, frames, metadata=SETTINGS, graphs=graphs) for folder in "ab"
    )
    assert video.read_metadata(first) == SETTINGS
    # ComfyUI's page reads no GIF.
    assert video.read_graphs(first) == ({} if name.endswith("gif") else graphs)
    files = [(a, second / a.name) for a in first.iterdir()] if first.is_dir() else [(first, second)]
    assert all(a.read_bytes() == b.read_bytes() for a, b in files)


def test_graphs_stand_where_comfyui_looks_for_them(tmp_path, frames):
    graphs = {"workflow": {"nodes": []}, "prompt": {}}
    with Image.open(video.write_video(tmp_path / "clip.png", frames, graphs=graphs)) as image:
        assert image.text == {"workflow": '{"nodes": []}', "prompt": "{}"}
    with Image.open(video.write_video(tmp_path / "clip.webp", frames, graphs=graphs)) as image:
        assert dict(image.getexif()) == {0x010F: 'workflow:{"nodes": []}', 0x0110: "prompt:{}"}


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("height", range(12, 20))
def test_a_reader_that_skips_no_padding_finds_the_graphs_of_a_webp(tmp_path, frames, height, count):
    """The page of ComfyUI 0.3.64 takes a chunk of odd length for as long as it says."""
    still = np.repeat(np.random.default_rng(height).integers(0, 256, (1, height, 9, 3), dtype=np.uint8), count, axis=0)
    path = video.write_video(tmp_path / "clip.webp", still, metadata=SETTINGS, graphs={"workflow": {"nodes": []}})
    data, at, names = path.read_bytes(), 12, []
    while at < len(data) and b"EXIF" not in names:
        names.append(data[at : at + 4])
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    assert names[0] == b"VP8X" and names[-1] == b"EXIF"
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), still[0])
    assert video.read_graphs(path) == {"workflow": {"nodes": []}} and video.read_metadata(path) == SETTINGS


def test_the_graphs_of_an_mp4_stand_before_its_pictures(tmp_path, frames):
    """ComfyUI's page reads only the start of a long file."""
    pytest.importorskip("av", reason="MP4 needs the extra `video`")
    data = video.write_video(tmp_path / "clip.mp4", frames, graphs={"workflow": {"nodes": []}}).read_bytes()
    assert 0 < data.index(b"workflow") < data.index(b"mdat")


def test_without_settings_a_file_holds_pictures_only(tmp_path, frames):
    for name in KINDS[:3]:
        path = video.write_video(tmp_path / name, frames)
        assert video.read_graphs(path) == {}
        with pytest.raises(ValueError, match="holds no settings"):
            video.read_metadata(path)


def test_resize_keeps_pixels_with_nearest_and_means_with_lanczos(frames):
    assert np.array_equal(video.resize(frames, 3, "nearest")[:, 1::3, 1::3], frames)
    smooth = video.resize(frames, 4, "lanczos")
    assert smooth.shape == (12, 80, 128, 3)
    assert abs(smooth.mean() - frames.mean()) < 1


def test_a_second_run_replaces_the_frames_of_the_first(tmp_path, frames):
    video.write_video(tmp_path / "clip", frames)
    video.write_video(tmp_path / "clip", frames[:3])
    assert len(list((tmp_path / "clip").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_a_folder_with_other_files_is_left_alone(tmp_path, frames):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="thesis.txt"):
        video.write_video(tmp_path / "clip", frames)
    assert (tmp_path / "clip" / "thesis.txt").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "clip.webp"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "clip"
    target.mkdir()
    (target / "frame_00000.png").write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "frame_00000.png").write_bytes(b"half")
        raise RuntimeError
    assert (target / "frame_00000.png").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("clip.avi", {}, ["'.avi'", ".webp"]),
        ("clip.webp", {"fps": 0}, ["fps is 0", "0.002 to 1000"]),
        ("clip.gif", {"fps": 0.0019}, ["fps is 0.0019"]),
        ("clip.gif", {"quality": 50}, ["quality is 50", "a GIF has none", ".webp or .mp4"]),
        ("clip.png", {"quality": 50}, ["a PNG has none"]),
        ("clip", {"quality": 50}, ["a folder of PNG frames has none"]),
        ("clip.webp", {"quality": 101}, ["quality is 101"]),
        ("clip.webp", {"quality": "best"}, ["quality is 'best'", "expected 0 to 100"]),
        ("clip.mp4", {"fps": "8"}, ["fps is '8'", "0.002 to 1000"]),
        ("clip.webp", {"fps": None}, ["fps is None"]),
        ("clip.webp", {"frames": np.zeros((2, 4, 4, 3), np.float32)}, ["float32", "uint8"]),
        ("clip.webp", {"frames": np.zeros((0, 4, 4, 3), np.uint8)}, ["(0, 4, 4, 3)"]),
        ("clip.mp4", {"frames": np.zeros((2, 5, 4, 3), np.uint8)}, ["4x5", "even"]),
        ("clip.webp", {"graphs": {"api": {}}}, ["'api'", "workflow", "prompt"]),
    ],
)
def test_bad_arguments_are_named(tmp_path, frames, name, change, words):
    with pytest.raises(ValueError) as error:
        video.write_video(tmp_path / name, **{"frames": frames, **change})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_settings_is_an_error_that_names_it(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="plain.png"):
        video.read_metadata(tmp_path / "plain.png")
    with pytest.raises(FileNotFoundError, match="none.webp"):
        video.read_metadata(tmp_path / "none.webp")


def test_settings_stand_where_other_programs_read_them(tmp_path, frames):
    comment = Image.open(video.write_video(tmp_path / "clip.gif", frames, metadata=SETTINGS)).info["comment"]
    assert json.loads(comment) == SETTINGS
    exif = Image.open(video.write_video(tmp_path / "clip.webp", frames, metadata=SETTINGS)).getexif()
    assert exif.get_ifd(0x8769)[0x9286].startswith(b"ASCII\0\0\0{")


def test_a_clip_repeats_unless_told_otherwise(tmp_path, frames):
    for suffix, once in ((".webp", 1), (".gif", None)):
        forever = Image.open(video.write_video(tmp_path / f"forever{suffix}", frames))
        single = Image.open(video.write_video(tmp_path / f"once{suffix}", frames, loop=False))
        assert forever.info["loop"] == 0
        assert single.info.get("loop") == once
