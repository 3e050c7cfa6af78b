"""Schemas, folders and checks of the nodes."""

from __future__ import annotations

import dataclasses
import inspect
import os

import folder_paths
import pack.nodes.schema as schema
import pytest
import torch
from comfy_api.latest import io
from pack.nodes import NODES
from pack.nodes.host import checks
from pack.nodes.host.files import paths
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.options import AttentionProcessor
from small import motion_module, sd15


def test_fields_that_a_comfyui_does_not_know_are_left_out(monkeypatch):
    @dataclasses.dataclass
    class OldSchema:
        node_id: str
        category: str = ""

    class OldInput(io.Int.Input):
        def __init__(self, id, display_name=None, optional=False, tooltip=None, lazy=None, default=None, min=None):
            super().__init__(id, display_name, optional, tooltip, lazy, default, min)

    class OldInt:
        Input = OldInput

    monkeypatch.setattr(schema.io, "Schema", OldSchema)
    made = schema.make_schema("saving", node_id="X", search_aliases=["y"], is_dev_only=True)
    assert (made.node_id, made.category) == ("X", "UNetMotion/saving")
    parent = io.Int.Input("a", default=1)
    made = schema.make_input(OldInt, "n", default=3, min=1, gradient_stops=[], advanced=True)
    assert type(parent) is not type(made) and made.default == 3
    assert made.as_dict()["advanced"] is True


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_is_documented_and_short(node):
    made = node.define_schema()
    parts = ("loading", "motion", "sampling", "saving", "training")
    assert made.node_id.startswith("UNetMotion_") and made.description
    assert made.category in [f"UNetMotion/{part}" for part in parts]
    for item in made.inputs:
        assert item.tooltip and len(item.tooltip) > 25, f"{made.node_id}.{item.id}"
    for item in made.outputs:
        assert item.tooltip and item.display_name, made.node_id
    assert len(inspect.getsource(node.execute).splitlines()) < 20


def test_motion_folders_join_what_is_there_already(monkeypatch, tmp_path):
    name = paths.MOTION_MODULES
    other = str(tmp_path / "others")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([other], {".safetensors"}))
    paths.register_folders()
    paths.register_folders()
    where, extensions = folder_paths.folder_names_and_paths[name]
    assert where == [other, os.path.join(folder_paths.models_dir, name)]
    assert {".safetensors", ".ckpt", ".pth"} <= set(extensions)


def test_files_are_listed_and_found_by_extension(monkeypatch, tmp_path):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, paths.MOTION_MODULES, ([str(tmp_path)], paths.EXTENSIONS))
    for name in ("v3.safetensors", "v1.ckpt", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    folder_paths.filename_list_cache.clear()
    assert paths.list_motion_modules() == ["v1.ckpt", "v3.safetensors"]
    assert paths.find_motion_module("v1.ckpt") == str(tmp_path / "v1.ckpt")
    with pytest.raises(FileNotFoundError, match="'gone.ckpt' is not in the model folders animatediff_models"):
        paths.find_motion_module("gone.ckpt")


def test_a_model_without_motion_modules_is_named():
    with pytest.raises(ValueError, match="UNetModel without motion modules; put Apply Motion Module before"):
        checks.require_motion_model(sd15())


@pytest.mark.parametrize(
    ("shape", "per_clip", "sentence"),
    [
        (
            (40, 4, 8, 8),
            0,
            "a clip of 40 frames was asked for, but the motion module knows 32 positions; use "
            r"at most 32 frames, Context Windows \(motion\), several clips with `frames_per_clip`, or "
            "`position_interpolate` 40 in Load Motion Module",
        ),
        ((0, 4, 8, 8), 0, "holds 0 frames, expected at least 1"),
        ((10, 4, 8, 8), 4, "holds 10 frames, expected a multiple of `frames_per_clip` 4"),
        ((1, 4, 16, 8, 8), 0, r"has shape \(1, 4, 16, 8, 8\), expected \(frames"),
    ],
)
def test_frames_that_make_no_clip_are_named(shape, per_clip, sentence):
    model = apply_motion_module(sd15(), motion_module())
    checks.check_frames(model, (80, 4, 8, 8), 16)
    with pytest.raises(ValueError, match=sentence):
        checks.check_frames(model, shape, per_clip)


def test_an_attention_processor_that_cannot_run_here_is_named():
    model = apply_motion_module(sd15(), motion_module())
    assert model.load_device == torch.device("cpu")
    with pytest.raises(ValueError, match="`temporal` is 'mem_efficient', which cannot run on cpu; here are auto, sdpa"):
        AttentionProcessor.execute(model, "auto", "mem_efficient")


def test_settings_come_back_from_their_words_as_they_were():
    from pack.nodes.host.step.compiled_settings import decode_settings, encode_settings

    given = {"freeu": {"b1": 1.5, "s2": 1e-05, "version": "v2"}, "n": 8, "loop": True, "none": None, "l": [0.1, -2.0]}
    words = encode_settings(given)
    back = decode_settings(words)
    assert back == given and repr(back) == repr(given)
    assert words["freeu"]["b1"] != encode_settings(given)["n"] and isinstance(words["n"], str)
    picture = torch.ones(1)
    assert decode_settings(encode_settings({"pia": {"picture": picture}}))["pia"]["picture"] is picture
