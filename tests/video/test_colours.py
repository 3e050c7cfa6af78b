"""The colours of MP4 files, read by programs that know nothing of this pack, and by the definition of BT.709."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from unet_motion import video
from unet_motion.video.yuv import rgb_to_yuv420p

av = pytest.importorskip("av", reason="MP4 needs the extra `video`")

BARS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128), (12, 90, 200)],
    np.uint8,
)
SIDE = 32


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """An MP4 of six frames whose bars move on by one in each, and the colours of the bars: uint8 (6, 8, 3)."""
    colours = np.stack([np.roll(BARS, i, axis=0) for i in range(6)])
    frames = colours[:, None].repeat(SIDE, 1).repeat(SIDE, 2)
    return video.write_video(tmp_path_factory.mktemp("bars") / "bars.mp4", frames), colours


def middles(frames):
    return frames[:, SIDE // 2, SIDE // 2 :: SIDE].astype(int)


def of_bt709(planes, height):
    """RGB of Y, U and V planes, uint8 (F, H * 3 / 2, W), by ITU-R BT.709-6, items 3.2 to 3.4 and 4.6."""
    luma = (planes[:, :height].astype(np.float64) - 16) / 219
    chroma = (planes[:, height:].astype(np.float64) - 128) / 224
    chroma = chroma.reshape(len(planes), 2, height // 2, -1).repeat(2, 2).repeat(2, 3)
    blue, red = luma + 1.8556 * chroma[:, 0], luma + 1.5748 * chroma[:, 1]
    green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.clip(np.stack([red, green, blue], axis=-1) * 255, 0, 255)


def test_the_planes_in_the_file_are_the_colours_by_the_definition(bars):
    path, colours = bars
    with av.open(str(path)) as container:
        planes = np.stack([frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)])
    assert np.abs(middles(of_bt709(planes, SIDE)) - colours).max() <= 3


def test_ffmpegs_program_shows_the_colours(bars):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="brings FFmpeg's program").get_ffmpeg_exe()
    path, colours = bars
    command = [ffmpeg, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    frames = np.frombuffer(shown, np.uint8).reshape(6, SIDE, 8 * SIDE, 3)
    assert np.abs(middles(frames) - colours).max() <= 3


def test_the_file_says_what_its_colours_are_in_the_stream_and_in_the_container(bars):
    path, _ = bars
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
    data = path.read_bytes()
    # ISO/IEC 14496-12, 12.1.5: three numbers of 16 bits, and a bit that is set for full range.
    colour = data[data.index(b"colrnclx") + 8 :][:7]
    assert colour == bytes([0, 1, 0, 1, 0, 1, 0])


def test_grey_of_every_level_and_chroma_between_pixels():
    greys = np.arange(256, dtype=np.uint8)[None, :, None].repeat(2, 0).repeat(3, 2)
    planes = rgb_to_yuv420p(greys)
    assert np.array_equal(planes[:2], np.rint(16 + 219 * np.arange(256) / 255)[None].repeat(2, 0))
    assert (planes[2] == 128).all()

    picture = np.random.default_rng(2).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    red, green, blue = np.moveaxis(picture / 255, -1, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = []
    for chroma in ((blue - luma) / 1.8556, (red - luma) / 1.5748):
        for y in range(0, 6, 2):
            for x in range(0, 10, 2):
                row = chroma[y : y + 2].mean(axis=0)
                expected.append(128 + 224 * (row[max(x - 1, 0)] + 2 * row[x] + row[x + 1]) / 4)
    planes = rgb_to_yuv420p(picture)
    assert planes.shape == (9, 10) and np.abs(planes[:6] - (16 + 219 * luma)).max() <= 0.501
    assert np.abs(planes[6:].ravel() - expected).max() <= 0.501
