"""The example workflow that trains a motion LoRA and applies it: on a real server, in one run, and stopped half-way."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

from tests.comfyui.clips import frames_of, middle_of
from tests.comfyui.test_workflows import clip_of, graph_of

TRAIN, RIGHT, LEFT = "9", slice(272, 528), slice(0, 256)


@pytest.fixture
def graph(server):
    return graph_of(server, "train_motion_lora")


def files_of(server):
    return sorted((server.base / "output" / "loras").glob("*.safetensors"))


def made(path):
    with safe_open(path, "pt") as file:
        assert all("temporal_transformer" in name for name in file.keys())
        return json.loads(file.metadata()["unet_motion"])["training"]["how"]


def test_one_run_trains_and_applies_a_lora_that_moves_a_still_circle(server, graph):
    before, progress = files_of(server), []

    def note(event):
        if event["type"] == "progress" and event["data"]["node"] == TRAIN:
            progress.append((event["data"]["value"], event["data"]["max"]))

    graph[TRAIN]["inputs"]["sample_every"] = 0
    run = server.run(graph, note)
    assert run.error is None, run.error
    assert progress[-1] == (100, 100)
    (file,) = set(files_of(server)) - set(before)
    assert made(file)["trained_steps"] == 100
    # What the graph saved is the first picture of its results, not the one that the page keeps on the trainer.
    assert "images" not in run.outputs[TRAIN]
    (name,) = run.outputs[TRAIN]["unet_motion_training"]
    assert frames_of(server.file({"filename": name, "subfolder": "", "type": "temp"})).shape[:2] == (16, 240)
    pictures = [entry for output in run.outputs.values() for entry in output.get("images", ())]
    assert pictures[0]["type"] == "output"
    frames = frames_of(server.file(run.outputs["17"]["images"][0])).astype(float)
    without, with_lora = frames[:, :, LEFT], frames[:, :, RIGHT]
    assert abs(middle_of(without[0], 2) - middle_of(without[-1], 2)) < 12
    assert middle_of(with_lora[0], 2) - middle_of(with_lora[-1], 2) > 20
    assert file.name in server.get("/object_info/UNetMotion_LoadMotionLoRA")["UNetMotion_LoadMotionLoRA"]["input"][
        "required"]["lora_name"][1]["options"]  # fmt: skip


def test_a_stopped_run_leaves_a_file_and_ends_the_queue(server, graph):
    before = files_of(server)

    def stop(event):
        if event["type"] == "progress" and event["data"]["node"] == TRAIN and event["data"]["value"] >= 2:
            return "/interrupt"
        return None

    graph[TRAIN]["inputs"] |= {"steps": 4000, "seed": 1}
    run = server.run(graph, stop)
    assert run.interrupted and "11" not in run.executed
    (file,) = set(files_of(server)) - set(before)
    assert 2 <= made(file)["trained_steps"] < 4000
    # The same server goes on, and the model is what it was.
    del graph[TRAIN], graph["10"], graph["11"], graph["13"]
    graph["16"]["inputs"]["image"] = ["14", 0]
    del graph["15"]
    assert np.abs(np.diff(frames_of(clip_of(server, graph)).astype(float), axis=0)).mean() > 0


def test_a_wrong_input_is_a_sentence_on_the_node(server, graph):
    graph[TRAIN]["inputs"]["captions"] = "one\ntwo"
    run = server.run(graph)
    assert run.error["node_id"] == TRAIN
    assert run.message == "`captions` has 2 lines for 1 clips, expected one line for all or one for each."
