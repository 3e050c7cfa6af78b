"""Wrong input comes back from the API as one sentence that says what was found and what was expected."""

from __future__ import annotations

import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui.graphs import Graph, bundled, sample


class Payload:
    """Would create a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def bad_files(server):
    """Files that are no motion modules: name -> what the error must say of them."""
    folder = server.base / "models" / "animatediff_models"
    folder.mkdir(parents=True, exist_ok=True)
    proof = server.base / "code was run"
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("<!DOCTYPE html><html>404</html>" * 9)
    (folder / "pickle.ckpt").write_bytes(pickle.dumps({"state_dict": Payload(proof)}))
    save_file({"first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}, folder / "vae.safetensors")
    save_file({"lora_unet_mid.lora_down.weight": torch.zeros(4, 8)}, folder / "lora.safetensors")
    header = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
    (folder / "cut.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    yield {
        "empty.safetensors": "is empty, expected a safetensors file",
        "text.safetensors": "is a web page",
        "pickle.ckpt": "is a pickle that asks to run or build `io.open`, expected tensors only",
        "vae.safetensors": "looks like a VAE",
        "lora.safetensors": "looks like a LoRA",
        "cut.safetensors": "is truncated",
    }
    assert not proof.exists()


def load(name):
    graph = Graph()
    graph.add("UNetMotion_LoadMotionModule", "loader", motion_module=name)
    # PreviewAny shows what a node gives, of any type.
    graph.add("PreviewAny", source=("loader", 0))
    return graph


def check_sentence(run, *words):
    assert run.error is not None, "no error"
    message = run.message
    assert "\n" not in message and "Traceback" not in message, message
    for word in words:
        assert word in message, message


def test_files_of_other_kinds_are_refused_by_name(server, bad_files):
    for name, words in bad_files.items():
        run = server.run(load(name))
        check_sentence(run, name, words)
        assert run.error["node_type"] == "UNetMotion_LoadMotionModule"


def test_files_of_other_kinds_are_refused_as_unets_too(server, bad_files, small_motion):
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(exist_ok=True)
    for name, words in bad_files.items():
        (folder / name).hardlink_to(server.base / "models" / "animatediff_models" / name)
        graph = Graph()
        options = {"norm_scope": "auto", "beta_schedule": "auto", "motion_module": small_motion}
        graph.add("UNetMotion_LoadUNet", "loader", unet_name=name, **options)
        graph.add("PreviewAny", source=("loader", 0))
        check_sentence(server.run(graph), name, words)


def test_a_missing_file_is_named(server):
    run = server.run(load("gone.safetensors"))
    if "node_errors" in run.error:
        (problem,) = run.error["node_errors"]["loader"]["errors"]
        assert problem["type"] == "value_not_in_list" and "gone.safetensors" in problem["details"]
    else:
        # Older versions do not compare a value with the options of its input: the node does.
        check_sentence(run, "'gone.safetensors' is not in the model folders ")


def test_a_choice_that_does_not_exist_is_named(server):
    graph, needs = bundled(frames=2)
    chunking = {"enabled": True, "chunk_size": 1, "dim": "diagonal"}
    model = graph.add("UNetMotion_ForwardChunking", "chunking", model=needs["model"], **chunking)
    sample(graph, {**needs, "model": (model, 0)}, "never")
    run = server.run(graph)
    if "node_errors" in run.error:
        assert "diagonal" in str(run.error["node_errors"]["chunking"])
    else:
        check_sentence(run, "`dim` is 'diagonal', expected one of frames, pixels.")


def test_a_file_that_vanishes_is_named(server, bad_files):
    folder = server.base / "models" / "animatediff_models"
    (folder / "brief.safetensors").write_bytes(b"x")
    info = server.get("/object_info/UNetMotion_LoadMotionModule")
    assert "brief.safetensors" in str(info)
    (folder / "brief.safetensors").unlink()
    run = server.run(load("brief.safetensors"))
    assert "brief.safetensors" in str(run.error)


@pytest.mark.parametrize("sampler", ["UNetMotion_Sampler", "KSampler"])
def test_more_frames_than_positions(server, sampler):
    graph, needs = bundled(frames=40)
    extra = {"frames_per_clip": 0} if sampler == "UNetMotion_Sampler" else {}
    sample(graph, needs, "never", sampler, **extra)
    check_sentence(server.run(graph), "40 frames", "32")


def test_frames_that_make_no_whole_clips(server):
    graph, needs = bundled(frames=10)
    sample(graph, needs, "never", "UNetMotion_Sampler", frames_per_clip=4)
    check_sentence(server.run(graph), "10 frames", "multiple of `frames_per_clip` 4")


def test_zero_frames(server):
    graph, needs = bundled(frames=0)
    sample(graph, needs, "never")
    errors = server.run(graph).error["node_errors"]
    (problem,) = next(iter(errors.values()))["errors"]
    assert problem["message"] == "Value 0 smaller than min of 1"


def test_values_out_of_range_are_refused_before_anything_runs(server):
    graph, needs = bundled(frames=2)
    model = graph.add("UNetMotion_ForwardChunking", model=needs["model"], enabled=True, chunk_size=0, dim="frames")
    sample(graph, {**needs, "model": (model, 0)}, "never")
    run = server.run(graph)
    assert "smaller than min of 1" in str(run.error["node_errors"]) and not run.executed


def test_motion_modules_on_the_bundled_model(server, small_motion):
    graph, needs = bundled(frames=2)
    motion = graph.add("UNetMotion_LoadMotionModule", motion_module=small_motion)
    applied = graph.add(
        "UNetMotion_ApplyMotionModule", model=needs["model"], motion_module=(motion, 0), norm_scope="auto",
        beta_schedule="auto",
    )  # fmt: skip
    sample(graph, {**needs, "model": (applied, 0)}, "never")
    check_sentence(server.run(graph), "`model` is not an SD1.5 model", "2 resolution levels")
