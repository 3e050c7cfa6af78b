import json
from concurrent.futures import Future

import pytest
import torch
from safetensors.torch import save_file

from unet_motion.bundled import build_parts
from unet_motion.bundled.parts import FORMAT, METADATA_KEY, PREFIXES, UNET_CONFIG
from unet_motion.cli import main, render_workers
from unet_motion.cli.render_workers import Renderer

INFO = {"beta_schedule": "scaled_linear", "beta_end": 0.02, "prediction": "v_prediction", "latent_scale": 0.5}
SIZES = {"frames": 4, "steps": 2, "scale": 1}
WORDS = ["a", "red", "blue", "star", "circle", "moving", "left", "right"]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A file of the bundled model's form with small random weights."""
    torch.manual_seed(5)
    config = {**UNET_CONFIG, "block_out_channels": (32, 64), "motion_max_seq_length": 8}
    parts = build_parts(WORDS, config)
    state = {
        prefix + key: value.clone().contiguous()
        for name, prefix in PREFIXES.items()
        for key, value in getattr(parts, name).state_dict().items()
    }
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    description = {"format": FORMAT, "words": WORDS, "unet": config, "info": INFO}
    save_file(state, str(path), metadata={METADATA_KEY: json.dumps(description)})
    return path


@pytest.fixture
def batch(model_file, tmp_path):
    """Call `render` with jobs of few steps; gives the status and the folder."""
    folder = tmp_path / "clips"

    def call(jobs, *arguments):
        path = tmp_path / "jobs.jsonl"
        lines = [{"model": str(model_file), **SIZES, **job} if isinstance(job, dict) else job for job in jobs]
        path.write_text("".join(f"{job if isinstance(job, str) else json.dumps(job)}\n" for job in lines))
        return main(["render", str(path), "--out", str(folder), *arguments]), folder

    return call


@pytest.fixture
def in_this_process(monkeypatch):
    """Workers draw when they are asked, here; gives the lines that they drew."""
    drawn = []

    class Here:
        def __init__(self, device, threads):
            self.renderer = Renderer(device, 1)

        def submit(self, job):
            drawn.append(job.line)
            future = Future()
            future.set_result(self.renderer.draw(job))
            return future

        def close(self):
            pass

    monkeypatch.setattr(render_workers, "LocalWorker", Here)
    return drawn
