"""The bundled model on a real server: samplers, options, caching, interruption."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from tests.comfyui.graphs import bundled, sample


def save_clip(graph, sampler, name):
    decoded = graph.add("VAEDecode", samples=(sampler, 0), vae=("loader", 2))
    options = {"fps": 8.0, "lossless": True, "quality": 100, "method": "fastest"}
    graph.add("SaveAnimatedWEBP", name, images=(decoded, 0), filename_prefix=name, **options)


def read_clip(server, run, name):
    with Image.open(io.BytesIO(server.file(run.outputs[name]["images"][0]))) as picture:
        frames = []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def test_motion_sampler_gives_the_latents_of_ksampler_bit_for_bit(server):
    graph, needs = bundled()
    for name, changes in (("euler", {}), ("dpmpp_2m", {"sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 0.7})):
        sample(graph, needs, f"core {name}", **changes)
        sample(graph, needs, f"ours {name}", "UNetMotion_Sampler", frames_per_clip=0, **changes)
    run = server.run(graph)
    assert run.error is None
    for name in ("euler", "dpmpp_2m"):
        core, ours = server.latent(run, f"core {name}"), server.latent(run, f"ours {name}")
        assert core.shape == (8, 4, 8, 8) and torch.isfinite(core).all()
        assert core.std() > 0.1
        assert torch.equal(core, ours), name
    assert not torch.equal(server.latent(run, "core euler"), server.latent(run, "core dpmpp_2m"))
