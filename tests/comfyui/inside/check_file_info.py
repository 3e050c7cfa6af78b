"""Choosing a file on a loader: told from its header, whatever it holds, and without a word of the server's folders."""

from __future__ import annotations

import json
import pickle
import struct
import time

import folder_paths
import pytest
import torch
from pack.nodes.host.files import paths
from pack.nodes.host.model import saving
from pack.nodes.host.page.file_info import describe_choices
from pack.unet_motion.files.description import DESCRIPTION_KEY, description_tensor
from pack.unet_motion.formats import FileFormatError
from safetensors.torch import save_file

FIELDS = {
    "UNetMotion_LoadMotionModule": "motion_module",
    "UNetMotion_LoadUNet": "unet_name",
    "UNetMotion_LoadLoRA": "lora_name",
    "UNetMotion_LoadMotionLoRA": "lora_name",
}
DOUBLED = b")" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(41))
"""A tuple that is doubled forty times: its hash would take hours."""


def legacy(content: bytes) -> bytes:
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + content


def header(content) -> bytes:
    text = (content if isinstance(content, str) else json.dumps(content)).encode()
    return struct.pack("<Q", len(text)) + text


HOSTILE = {
    "doubled.ckpt": legacy(b"\x80\x02}" + DOUBLED + b"K\1s."),
    "array.ckpt": legacy(b"\x80\x02}X\1\0\0\0ac__builtin__\nbytearray\n(J\0\xca\x9a\x17tRs."),
    "names.safetensors": header({"a" * 80_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    "rank.safetensors": header({"a": {"dtype": "F32", "shape": [2**62] * 100_000, "data_offsets": [0, 0]}}),
    "deep.safetensors": header('{"a":' + "[" * 100_000),
    "short.pt": b"PK\3\4" + bytes(40),
}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    places = {name: ([str(tmp_path)], paths.EXTENSIONS) for name in (*paths.LORA_FOLDERS, *paths.UNET_FOLDERS[:2])}
    for name, place in {**places, paths.MOTION_MODULES: ([str(tmp_path)], paths.EXTENSIONS)}.items():
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, place)
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.mark.parametrize("node", FIELDS)
def test_hostile_files_are_told_at_once_on_every_loader(folder, node):
    for name, content in HOSTILE.items():
        (folder / name).write_bytes(content)
        start = time.process_time()
        choice = describe_choices(node, {FIELDS[node]: name})[FIELDS[node]]
        assert time.process_time() - start < 1
        assert choice["text"] == name and choice["problem"] and len(choice["problem"]) < 600
        assert str(folder) not in choice["problem"] and choice["problem"].isprintable()


@pytest.mark.parametrize("node", FIELDS)
def test_a_checkpoint_is_told_without_its_values(folder, node, monkeypatch):
    layer = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q"
    state = {f"{layer}.lora_down.weight": torch.ones(4, 320), f"{layer}.lora_up.weight": torch.ones(320, 4)}
    torch.save(state, folder / "lora.ckpt")
    monkeypatch.setattr(torch.UntypedStorage, "from_file", lambda *_: pytest.fail("values were read"))
    choice = describe_choices(node, {FIELDS[node]: "lora.ckpt"})[FIELDS[node]]
    assert "otion LoRA" in choice["text"]


@pytest.mark.parametrize("name", ["never.ckpt", "../" * 9 + "etc/passwd", "/etc/passwd", "x" * 5000, "a\0b", "\ud800"])
def test_names_that_are_no_files(folder, name):
    choice = describe_choices("UNetMotion_LoadMotionModule", {"motion_module": name})["motion_module"]
    assert "is not in the model folders animatediff_models" in choice["problem"]
    assert str(folder) not in choice["problem"] and len(choice["problem"]) < 600 and choice["problem"].isprintable()


@pytest.mark.parametrize(
    "change",
    [{"model_type": "NO"}, {"model_type": 5}, {"sampling": []}, {"sampling": {"a": []}}, {"inpaint": 1}, {"base": []}],
)
def test_damaged_descriptions_of_a_model(folder, change):
    part = {"sampling": {}, "model_type": "EPS", "latent": "sd15", "pooled": None, "inpaint": False, "base": None}
    for content, damaged in ((part, False), ({**part, **change}, True), ({}, True)):
        description = description_tensor({"unet": {}, saving.PART: content})
        save_file({DESCRIPTION_KEY: description}, folder / "a.safetensors")
        if not damaged:
            assert saving.saved_settings(folder / "a.safetensors")["sampling"] == {}
            continue
        with pytest.raises(FileFormatError, match=r"a\.safetensors: its description of the MODEL is damaged"):
            saving.saved_settings(folder / "a.safetensors")
