"""Save Clip through the API: what the file holds, against the pictures that went in."""

from __future__ import annotations

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from tests.comfyui.graphs import Graph
from tests.comfyui.server import Server
from unet_motion.video import read_graphs, read_metadata

FRAMES, HEIGHT, WIDTH = 5, 24, 40
# What the page adds to a prompt: the graph as it draws it, and whatever packs put beside it.
WORKFLOW = {"nodes": [], "links": [], "extra": {"note": 'a réd "star" 星'}, "version": 0.4}


@pytest.fixture(scope="module")
def pictures():
    """uint8 (F, H, W, 3): every value of a colour, and frames that differ everywhere."""
    ramp = np.arange(FRAMES * HEIGHT * WIDTH * 3, dtype=np.int64) * 7
    return (ramp % 256).astype(np.uint8).reshape(FRAMES, HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def smooth():
    """uint8 (F, H, W, 3): a white square that moves over a grey gradient."""
    clip = np.repeat(np.linspace(30, 120, WIDTH, dtype=np.uint8)[:, None], 3, axis=1)
    clip = np.broadcast_to(clip, (FRAMES, HEIGHT, WIDTH, 3)).copy()
    for i, frame in enumerate(clip):
        frame[8:16, 4 * i : 4 * i + 8] = 250
    return clip


def save(server, pictures, **inputs):
    """Run a graph that loads pictures, makes a batch of them and saves it; the graph and the run."""
    graph, batch = Graph(), None
    for i, picture in enumerate(pictures):
        name = f"save_clip_{i}.png"
        Image.fromarray(picture).save(server.base / "input" / name)
        image = graph.add("LoadImage", image=name), 0
        batch = image if batch is None else (graph.add("ImageBatch", image1=batch, image2=image), 0)
    settings = {"filename_prefix": "clips/UNetMotion", "format": "webp", "fps": 8.0, "quality": 100, **inputs}
    graph.add("UNetMotion_SaveClip", "save", images=batch, **settings)
    # A result that is in the cache would not be saved again.
    server.post("/free", {"free_memory": True})
    return graph, server.run(graph, extra={"extra_pnginfo": {"workflow": WORKFLOW, "note": "of another pack"}})


def saved(server, pictures, **inputs):
    """The file that was saved, on the disk."""
    _, run = save(server, pictures, **inputs)
    assert run.error is None, run.error
    (entry,) = run.outputs["save"]["images"]
    assert entry["type"] == "output" and entry["subfolder"] == "clips"
    path = server.base / "output" / "clips" / entry["filename"]
    assert path.read_bytes() == server.file(entry)
    return path


def decode(path):
    """Pictures of an animation, uint8 (F, H, W, 3), and their durations in milliseconds."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        frames, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(frames), durations


def test_a_webp_of_quality_100_holds_every_pixel_at_the_right_time(server, pictures):
    path = saved(server, pictures, format="webp", fps=12.5)
    frames, durations = decode(path)
    assert np.array_equal(frames, pictures)
    assert durations == [80] * FRAMES


def test_less_quality_makes_a_smaller_webp_that_is_close(server, smooth):
    noisy = smooth + np.random.default_rng(0).integers(0, 6, smooth.shape, dtype=np.uint8)
    whole, lossy = saved(server, noisy), saved(server, noisy, quality=80)
    assert lossy.stat().st_size < 0.8 * whole.stat().st_size
    frames, _ = decode(lossy)
    assert not np.array_equal(frames, noisy) and np.abs(frames.astype(int) - noisy).mean() < 6


def test_a_gif_has_the_frames_and_the_time(server, smooth):
    frames, durations = decode(saved(server, smooth, format="gif", fps=10.0))
    assert np.abs(frames.astype(int) - smooth).max() <= 6
    assert durations == [100] * FRAMES


def test_an_mp4_is_close_to_the_pictures(server, smooth):
    with av.open(str(saved(server, smooth, format="mp4", fps=12.0))) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].average_rate == 12
        assert container.streams.video[0].codec_context.name == "h264"
    assert frames.shape == smooth.shape
    assert np.abs(frames.astype(int) - smooth).mean() < 3


def test_a_sheet_has_the_frames_in_rows_two_pixels_apart(server, pictures):
    path = saved(server, pictures, format="sheet")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == (3 * (WIDTH + 2) - 2, 2 * (HEIGHT + 2) - 2)
        sheet = np.asarray(picture)
    for i, frame in enumerate(pictures):
        top, left = i // 3 * (HEIGHT + 2), i % 3 * (WIDTH + 2)
        assert np.array_equal(sheet[top : top + HEIGHT, left : left + WIDTH], frame)
    assert (sheet[HEIGHT : HEIGHT + 2] == 255).all() and (sheet[HEIGHT + 2 :, 2 * (WIDTH + 2) :] == 255).all()


@pytest.mark.parametrize("kind", ["webp", "mp4", "sheet"])
def test_workflow_and_prompt_are_in_the_file_as_core_writes_them(server, smooth, kind):
    graph, run = save(server, smooth, format=kind)
    (entry,) = run.outputs["save"]["images"]
    path = server.base / "output" / "clips" / entry["filename"]
    graphs = read_graphs(path)
    assert graphs["workflow"] == WORKFLOW
    assert {name: node["inputs"] for name, node in graphs["prompt"].items()} == {
        name: node["inputs"] for name, node in graph.items()
    }
    # Core's own tags and names, read without this pack.
    if kind == "mp4":
        with av.open(str(path)) as container:
            assert json.loads(container.metadata["workflow"]) == WORKFLOW
    elif kind == "webp":
        with Image.open(path) as image:
            assert json.loads(image.getexif()[0x010F].removeprefix("workflow:")) == WORKFLOW
            assert image.getexif()[0x0110].startswith("prompt:{")
    else:
        with Image.open(path) as image:
            assert json.loads(image.text["workflow"]) == WORKFLOW and "prompt" in image.text


def test_a_gif_holds_no_graphs(server, smooth):
    assert read_graphs(saved(server, smooth, format="gif")) == {}


def test_files_are_numbered_and_none_is_overwritten(server, smooth):
    names = [saved(server, smooth, filename_prefix="clips/again", format=kind).name for kind in ("webp", "gif")]
    assert names == ["again_00001_.webp", "again_00002_.gif"]


def test_the_page_is_told_which_results_play(server, smooth):
    plays = {}
    for kind in ("webp", "gif", "mp4", "sheet"):
        _, run = save(server, smooth, format=kind)
        plays[kind] = run.outputs["save"].get("animated")
    # The page takes any other animation than WebP and PNG for a video, and a video player shows no GIF.
    assert plays == {"webp": [True], "gif": None, "mp4": [True], "sheet": None}


def test_what_an_mp4_cannot_hold_is_one_sentence_and_no_file(server, smooth):
    before = set((server.base / "output").rglob("*"))
    _, run = save(server, smooth[:, :23, :39], format="mp4", filename_prefix="odd")
    assert run.message == "`frames` are 39x23, expected an even width and height for MP4"
    assert set((server.base / "output").rglob("*")) == before


def test_a_format_that_does_not_exist_is_named(server, smooth):
    _, run = save(server, smooth, format="avi")
    if "node_errors" in run.error:
        assert "'avi' not in ['webp', 'gif', 'mp4', 'sheet']" in str(run.error["node_errors"]["save"])
    else:
        assert run.message == "`format` is 'avi', expected one of webp, gif, mp4, sheet."


def test_a_place_outside_the_output_folder_is_refused(server, smooth):
    _, run = save(server, smooth, filename_prefix="../../outside")
    assert run.message == "`filename_prefix` is '../../outside', expected a name in ComfyUI's output folder."
    assert not list(server.base.parent.glob("outside*"))


def test_with_disable_metadata_a_file_holds_pictures_only(installation, tmp_path, smooth):
    server = Server(installation, tmp_path, ("--disable-metadata",))
    server.start()
    try:
        for kind in ("webp", "mp4", "sheet", "gif"):
            path = saved(server, smooth, format=kind)
            assert read_graphs(path) == {}
            with pytest.raises(ValueError, match="holds no settings"):
                read_metadata(path)
            assert b"LoadImage" not in path.read_bytes()
    finally:
        server.stop()
