"""The bundled model on a real server: samplers, options, caching, interruption."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.comfyui.graphs import bundled, sample

FREEU = {
    "enabled": True, "preset": "custom", "version": "v1", "b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2,
    "start_percent": 0.0, "end_percent": 1.0,
}  # fmt: skip


def save_clip(graph, sampler, name):
    decoded = graph.add("VAEDecode", samples=(sampler, 0), vae=("loader", 2))
    settings = {"fps": 8.0, "lossless": True, "quality": 100, "method": "fastest"}
    graph.add("SaveAnimatedWEBP", f"{name} clip", images=(decoded, 0), filename_prefix=name, **settings)


def read_clip(server, run, name):
    with Image.open(io.BytesIO(server.file(run.outputs[f"{name} clip"]["images"][0]))) as picture:
        frames = []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def plain(server):
    """Latents of the plain model, computed by a graph without any of the options."""
    server.free()
    graph, needs = bundled()
    save_clip(graph, sample(graph, needs, "plain"), "plain")
    run = server.run(graph)
    assert run.error is None and "plain sampler" in run.executed
    return server.latent(run, "plain"), read_clip(server, run, "plain")


def test_motion_sampler_gives_the_latents_of_ksampler_bit_for_bit(server):
    graph, needs = bundled()
    variants = {"euler": {}, "dpmpp_2m": {"sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 0.7}}
    for name, changes in variants.items():
        sample(graph, needs, f"core {name}", **changes)
        sample(graph, needs, f"ours {name}", "UNetMotion_Sampler", frames_per_clip=0, **changes)
    run = server.run(graph)
    assert run.error is None
    for name in variants:
        core, ours = server.latent(run, f"core {name}"), server.latent(run, f"ours {name}")
        assert core.shape == (8, 4, 8, 8) and torch.isfinite(core).all()
        assert core.std() > 0.1
        assert torch.equal(core, ours), name
    assert not torch.equal(server.latent(run, "core euler"), server.latent(run, "core dpmpp_2m"))


def test_noise_on_the_model_is_that_of_the_noise_node_and_freeinit_samples_again(server):
    """KSampler on a model with a noise, and SamplerCustomAdvanced with the same noise: the same latents."""
    graph, needs = bundled(frames=4)
    short = {"steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    kind = {"kind": "free_noise", "window_length": 2, "overlap": 1, "weight": 0.5}
    noise = graph.add("UNetMotion_Noise", noise_seed=5, **kind), 0
    model = graph.add("UNetMotion_UseNoise", model=needs["model"], noise=noise, follow_seed=True), 0
    sample(graph, {**needs, "model": model}, "on the model", **short)
    texts = {name: needs[name] for name in ("positive", "negative")}
    guider = graph.add("CFGGuider", model=needs["model"], **texts, cfg=1.0)
    sigmas = graph.add("BasicScheduler", model=needs["model"], scheduler="normal", steps=1, denoise=1.0)
    euler = graph.add("KSamplerSelect", sampler_name="euler")
    parts = {"guider": (guider, 0), "sigmas": (sigmas, 0), "sampler": (euler, 0), "latent_image": needs["latent_image"]}
    custom = graph.add("SamplerCustomAdvanced", noise=noise, **parts)
    graph.add("SaveLatent", "custom", samples=(custom, 0), filename_prefix="latents/custom")
    settings = {"filter": "gaussian", "spatial_stop": 0.25, "temporal_stop": 0.25, "order": 4, "fast": False}
    for runs in (1, 2):
        again = graph.add("UNetMotion_FreeInit", model=model, iterations=runs, **settings), 0
        sample(graph, {**needs, "model": again}, f"{runs} runs", **short)
    run = server.run(graph)
    assert run.error is None, run.error
    found = {name: server.latent(run, name) for name in ("on the model", "custom", "1 runs", "2 runs")}
    assert torch.equal(found["on the model"], found["custom"]) and torch.equal(found["1 runs"], found["custom"])
    assert found["2 runs"].isfinite().all() and not torch.equal(found["2 runs"], found["custom"])


def test_freeu_acts_on_its_branch_only(server, plain):
    server.free()
    graph, needs = bundled()
    freeu = graph.add("UNetMotion_FreeU", model=needs["model"], **FREEU)
    off = graph.add("UNetMotion_FreeU", model=(freeu, 0), **{**FREEU, "enabled": False})
    for name, model in (("with", freeu), ("off", off), ("without", "loader")):
        save_clip(graph, sample(graph, {**needs, "model": (model, 0)}, name), name)
    run = server.run(graph)
    assert run.error is None and not run.cached
    latents = {name: server.latent(run, name) for name in ("with", "off", "without")}
    assert torch.equal(latents["without"], plain[0])
    assert torch.equal(latents["off"], plain[0])
    assert relative(latents["with"], plain[0]) > 1e-3
    clips = {name: read_clip(server, run, name) for name in ("with", "without")}
    assert clips["with"].shape == (8, 64, 64, 3)
    assert np.array_equal(clips["without"], plain[1])
    assert not np.array_equal(clips["with"], plain[1])


def test_a_preset_takes_the_place_of_the_numbers(server):
    graph, needs = bundled(frames=4)
    numbers = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
    preset = {**FREEU, "preset": "sdxl", "b1": 9.0, "s2": 9.0}
    for name, settings in (("numbers", {**FREEU, **numbers}), ("preset", preset)):
        model = graph.add("UNetMotion_FreeU", model=needs["model"], **settings)
        sample(graph, {**needs, "model": (model, 0)}, name, steps=1)
    run = server.run(graph)
    assert torch.equal(server.latent(run, "numbers"), server.latent(run, "preset"))


def test_each_attention_processor_and_chunking_give_the_same_clip(server, plain):
    graph, needs = bundled()
    names = ["auto", "sdpa", "flash", "math", "sliced"]
    for name in names:
        model = graph.add("UNetMotion_AttentionProcessor", model=needs["model"], spatial=name, temporal=name)
        sample(graph, {**needs, "model": (model, 0)}, name)
    chunking = {"enabled": True, "chunk_size": 3, "dim": "frames"}
    model = graph.add("UNetMotion_ForwardChunking", model=needs["model"], **chunking)
    sample(graph, {**needs, "model": (model, 0)}, "chunked")
    run = server.run(graph)
    assert run.error is None
    for name in (*names, "chunked"):
        assert relative(server.latent(run, name), plain[0]) < 1e-3, name
    assert torch.equal(server.latent(run, "auto"), plain[0])


@pytest.mark.parametrize("name", ["mem_efficient", "xformers", "sage"])
def test_a_processor_that_is_not_there_is_one_sentence(server, name):
    graph, needs = bundled(frames=2)
    model = graph.add("UNetMotion_AttentionProcessor", "choice", model=needs["model"], spatial="auto", temporal=name)
    sample(graph, {**needs, "model": (model, 0)}, "never")
    run = server.run(graph)
    assert run.error["node_id"] == "choice"
    assert run.message.startswith(f"`temporal` is '{name}', which ") and "\n" not in run.message


def test_a_second_run_executes_nothing(server):
    graph, needs = bundled(frames=3)
    sample(graph, needs, "again", "UNetMotion_Sampler", frames_per_clip=0)
    first = server.run(graph)
    assert "again sampler" in first.executed
    second = server.run(graph)
    assert second.executed == [] and set(second.cached) >= {"loader", "again sampler", "again"}
    graph["again sampler"]["inputs"]["seed"] += 1
    third = server.run(graph)
    assert third.executed == ["again sampler", "again"]


def test_several_clips_in_one_batch_are_sampled_as_if_alone(server):
    graph, needs = bundled(frames=8)
    sample(graph, needs, "two clips", "UNetMotion_Sampler", frames_per_clip=4)
    sample(graph, {**needs, "latent_image": graph.frames(4)}, "one clip")
    run = server.run(graph)
    # The noise of a batch is drawn frame by frame, so the first clip starts from the same noise in both.
    assert relative(server.latent(run, "two clips")[:4], server.latent(run, "one clip")) < 1e-4


def test_an_interrupted_run_leaves_the_server_able_to_run_the_next(server, plain):
    graph, needs = bundled()
    sample(graph, needs, "long", "UNetMotion_Sampler", frames_per_clip=0, steps=400)
    sent = []

    def interrupt(event):
        if event["type"] == "progress" and not sent:
            sent.append(event)
            return "/interrupt"
        return None

    run = server.run(graph, interrupt)
    assert sent and run.interrupted and run.error is None
    assert "long" not in run.executed
    graph, needs = bundled()
    sample(graph, needs, "next", steps=2)
    again = server.run(graph)
    assert again.error is None
    assert torch.equal(server.latent(again, "next"), plain[0])


def test_words_that_the_bundled_model_does_not_know_are_logged(server):
    graph, needs = bundled(frames=2, text="a red xylophone moving left")
    sample(graph, needs, "unknown", steps=1)
    assert server.run(graph).error is None
    assert "'xylophone'" in server.log()
