"""The workflow in a file of `generate` makes the clip of that file again, in ComfyUI."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.graphs import from_workflow
from unet_motion.cli import main
from unet_motion.video import read_graphs

# The defaults but for the frames; then every part of the graph with other values.
CLIPS = {
    "ddim": (),
    "euler": ("--sampler", "euler", "--steps", "8", "--negative", "(blue)", "--width", "48", "--scale", "1"),
    "dpmpp_2m": ("--sampler", "dpmpp_2m", "--steps", "7", "--guidance", "1", "--scale", "3", "--filter", "nearest"),
    "windows": (
        "--frames",
        "20",
        "--window",
        "8",
        "--overlap",
        "3",
        "--free-noise",
        "--sampler",
        "euler",
        "--steps",
        "4",
        "--window-part",
        "0.5:views=on,fuse=flat",
        "--scale",
        "1",
    ),
    "freeu": ("--steps", "8", "--freeu", "0.9,0.2,1.2,1.4", "--scale", "1", "--fps", "12.5"),
}
# The mean difference that is allowed, of 255. Core's ImageScale cuts decimals off before it enlarges with lanczos, and
# KSampler tells the model the nearest whole timestep, of those that `linspace` puts between them.
MEAN = {"ddim": 0.7, "euler": 0.4, "dpmpp_2m": 0.4, "freeu": 0.02, "windows": 0.4}


def decode(data):
    """uint8 (F, H, W, 3), and the durations in milliseconds."""
    with Image.open(io.BytesIO(data)) as image:
        frames, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(frames), durations


@pytest.fixture(scope="module", params=CLIPS)
def generated(request, tmp_path_factory):
    """The name and the file of a clip that the command line made."""
    path = tmp_path_factory.mktemp("generated") / "clip.webp"
    common = ["--dtype", "float32", "--frames", "6", "--seed", "11", "--json", "--out", str(path)]
    assert main(["generate", "a blue ring growing", *common, *CLIPS[request.param]]) == 0
    return request.param, path


def test_the_workflow_makes_the_same_clip_again(server, generated):
    name, path = generated
    graphs = read_graphs(path)
    graph = from_workflow(graphs["workflow"], server.get("/object_info"))
    assert graph == {
        number: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for number, node in graphs["prompt"].items()
    }
    run = server.run(graph)
    assert run.error is None, run.error
    (entry,) = (image for output in run.outputs.values() for image in output.get("images", ()))
    ours, our_times = decode(path.read_bytes())
    theirs, their_times = decode(server.file(entry))
    assert ours.shape == theirs.shape and our_times == their_times
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < MEAN[name] and difference.max() <= 6
    # A clip that were the same by chance would be a poor one: its frames differ by more.
    assert np.abs(ours[0].astype(int) - ours[-1]).mean() > 2
