"""Files that must be refused: each with its name, what was found and what was expected, and nothing run or kept."""

import json
import os
import pickle
import struct
import sys
import types

import numpy
import pytest
import torch
from safetensors.torch import save_file

from tests.formats.files import adapter, to_ldm, to_original, unet2d, write
from unet_motion import load_motion_module, load_unet
from unet_motion.files.reading import check_finite, open_tensors
from unet_motion.files.sniffing import sniff
from unet_motion.formats import BadWeightsError, FileFormatError, KeyMismatchError, UnsafeFileError, WrongKindError

LOADERS = (load_unet, load_motion_module)


@pytest.fixture(scope="module")
def ldm_state():
    return to_ldm(unet2d().state_dict(), 2, "model.diffusion_model.")


@pytest.fixture(scope="module")
def motion_state():
    return to_original(adapter().state_dict())


def header(content, data=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"<!doctype html", "is a web page"),
        (b"\xef\xbb\xbf \r\n\t<HTML>", "is a web page"),
        (b"<?xml version", "is an XML document"),
        (b"\x89PNG\r\n", "is a PNG picture"),
        (b"\xff\xd8\xff\xe0", "is a JPEG picture"),
        (b"RIFF....WEBP", "is a WebP picture or a sound"),
        (b"GIF89a", "is a GIF picture"),
        (b"\x1f\x8b\x08", "is a gzip archive"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7-zip archive"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"\x80\x01" + b"a" * 7, "starts with bytes 80 01 61 61 61 61 61 61 of no known format"),
        (b"\x80\x06" + b"a" * 7, "starts with bytes 80 06"),
        (b"12345678", "is 8 bytes long, too short"),
        (b"123456789", "starts with bytes 31 32 33 34 35 36 37 38 of no known format"),
    ],
)
def test_what_a_file_is_is_told_by_its_first_bytes(tmp_path, start, found):
    (tmp_path / "a").write_bytes(start)
    with pytest.raises(FileFormatError, match=f"a: {found}.*, expected a safetensors file or a PyTorch checkpoint"):
        sniff(tmp_path / "a")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"PK\x03\x04", "zip"),
        (b"\x80\x02", "pickle"),
        (b"\x80\x05......a", "pickle"),
        (b"\x80\x02......{", "safetensors"),
        (b"\x10\0\0\0\0\0\0\0{", "safetensors"),
        (b"PK......{", "safetensors"),
    ],
)
def test_the_forms_of_weights_are_told_by_their_first_bytes(tmp_path, start, kind):
    (tmp_path / "a").write_bytes(start)
    assert sniff(tmp_path / "a") == kind


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty, expected a safetensors file or a PyTorch checkpoint"),
        (b"abc", "is 3 bytes long, too short"),
        (b"\0" * 4096, "starts with zero bytes only, probably a download that failed"),
        (b"<!DOCTYPE html><html>" + b" " * 99, "is a web page, probably a download that failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "is a Git LFS pointer"),
        (b"GGUF\x03" + b"\0" * 99, "is a GGUF file"),
        (b"\x89PNG\r\n" + b"\0" * 99, "is a PNG picture"),
        (b'{"a": 1}' + b" " * 99, "is a JSON text"),
        (b"some words that are no weights", "starts with bytes 73 6f 6d 65"),
        (struct.pack("<Q", 10**12) + b"{", "announces a header of 1000000000000 bytes"),
        (header({"a": F32}, b"\0" * 8)[:20], "is truncated, its header should end at byte"),
        (header({"a": F32}, b"\0" * 7), "is truncated, its header promises 8 bytes of weights and the file holds 7"),
        (header({"a": F32}, b"\0" * 9), "has 1 bytes after the last tensor"),
        (header(b"{not json at all}"), "has a header that is not JSON"),
        (header({"a": {**F32, "dtype": "F31"}}, b"\0" * 8), "tensor a has dtype F31, expected one of F64"),
        (header({"a": {"dtype": "F32"}}, b"\0" * 8), "the header entry of a is"),
        (header({"a": {**F32, "shape": [-2]}}, b"\0" * 8), "the header entry of a is"),
        (header({"a": {**F32, "shape": [3]}}, b"\0" * 8), r"tensor a of shape \[3\] and dtype F32 takes 12 bytes"),
        (header({"a": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12), "the values of a start at byte 4 of the data"),
        (header({"a": F32, "b": F32}, b"\0" * 8), "the values of b start at byte 0 of the data, expected 8"),
        (header({}), "holds no tensors"),
        (header({"__metadata__": {"format": "pt"}}), "holds no tensors"),
        (b"PK\x03\x04" + b"\0" * 200, "is damaged or truncated"),
        (b"\x80\x02}q\x00", "is damaged or truncated"),
    ],
)
def test_damaged_and_foreign_files(tmp_path, load, content, sentence):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=sentence) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_every_truncation_is_seen(tmp_path, ldm_state, share):
    for name, save in (("a.safetensors", save_file), ("a.ckpt", torch.save)):
        save(ldm_state, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(FileFormatError, match="truncated"):
            load_unet(tmp_path / name)


def test_nothing_there_and_a_bare_folder(tmp_path):
    for load in LOADERS:
        with pytest.raises(FileNotFoundError, match="nothing.safetensors does not exist"):
            load(tmp_path / "nothing.safetensors")
        with pytest.raises(OSError, match="no file named config.json"):
            load(tmp_path)


class Harmful:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, load, form, motion_state):
    marker, path = tmp_path / "was-run", tmp_path / "model.safetensors"
    content = {"state_dict": motion_state, "callback": Harmful(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"callback": Harmful(marker)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        UnsafeFileError, match=r"is a pickle that asks to run or build `\w+\.system`.*nothing of it was run"
    ):
        load(path)
    assert not marker.exists()
    with path.open("rb") as stream:  # by its name, newer releases of torch would take it for safetensors
        torch.load(stream, weights_only=False) if form != "pickle" else pickle.load(stream)
    assert marker.exists(), "the file would have run its code in a loader that allows it"


def test_records_of_training_frameworks_are_left_out(tmp_path, motion_state, monkeypatch):
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", callback.__module__):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[callback.__module__].ModelCheckpoint = callback
    record = callback()
    record.path = "x"
    content = {"state_dict": motion_state, "callbacks": {callback: {"best": numpy.float64(3), "record": record}}}
    torch.save(content, tmp_path / "a.ckpt")
    monkeypatch.undo()
    assert load_motion_module(tmp_path / "a.ckpt").config.block_out_channels == (32, 64)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds an object of type list, expected a dictionary of tensors"),
        ({"epoch": 3}, r"holds a dictionary without tensors \(keys: epoch\)"),
        ({}, "holds an empty dictionary"),
        (torch.zeros(3), "holds an object of type Tensor"),
    ],
)
def test_checkpoints_without_tensors(tmp_path, content, sentence):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=sentence):
        load_unet(tmp_path / "a.pt")


OTHER_KINDS = {
    "a VAE": ["decoder.conv_in.weight", "encoder.conv_in.weight", "quant_conv.weight"],
    "a VAE ": ["first_stage_model.decoder.conv_in.weight", "first_stage_model.encoder.down.0.block.0.conv1.weight"],
    "a LoRA": [
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
        "lora_unet_down_blocks_0_attentions_0_proj_in.alpha",
    ],
    "a LoRA ": ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"],
    "a motion LoRA": [
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
        f"to_q_lora.{part}.weight"
        for part in ("down", "up")
    ],
    "a ControlNet": ["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"],
    "a ControlNet ": ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    "a SparseCtrl encoder": [
        "controlnet_cond_embedding.conv_in.weight",
        "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight",
    ],
    "a CameraCtrl or MotionCtrl camera encoder": [
        "encoder_conv_in.weight",
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
        "qkv_merge.weight",
    ],
    "a CameraCtrl or MotionCtrl camera encoder ": [
        "module.down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.cc_projection.weight",
    ],
    "a FancyVideo motion module": [
        "fps_embedding.linear.weight",
        "motion_embedding.linear.weight",
        "conv_in.weight",
        "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight",
    ],
    "a FancyVideo motion module ": ["FancyVideo", "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"],
    "the image encoder of AnimateLCM-I2V without its motion modules": ["img_encoder.body.0.block1.weight"],
    "a T2I-Adapter": ["adapter.body.0.in_conv.weight", "adapter.body.0.block1.weight"],
    "a video UNet of another family": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.time_embed.0.weight",
        "model.diffusion_model.input_blocks.1.0.time_mixer.mix_factor",
    ],
    "an upscaling model": ["conv_first.weight", "RRDB_trunk.0.rdb1.conv1.weight"],
    "a text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight", "text_model.embeddings.token_embedding.weight"],
    "a text encoder ": ["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"],
    "a CLIP image encoder": ["vision_model.encoder.layers.0.mlp.fc1.weight"],
    "an IP-Adapter": ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
    "a diffusion transformer": ["double_blocks.0.img_attn.qkv.weight"],
    "a textual-inversion embedding": ["emb_params"],
    "a file of unknown content": ["something.else"],
}


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("words", OTHER_KINDS)
def test_files_of_another_kind(tmp_path, load, words):
    path = write(tmp_path / "unet_motion_module.safetensors", {key: torch.zeros(1) for key in OTHER_KINDS[words]})
    with pytest.raises(WrongKindError) as caught:
        load(path)
    verb = "is" if "unknown" in words else "looks like"
    assert str(caught.value).startswith(f"{path}: {verb} {words.strip()} (")
    assert ", expected a" in str(caught.value)


def test_each_loader_refuses_what_the_other_loads(tmp_path, ldm_state, motion_state):
    unet = write(tmp_path / "a.safetensors", ldm_state)
    module = write(tmp_path / "b.safetensors", motion_state)
    with pytest.raises(WrongKindError, match=r"a\.safetensors: looks like a UNet with Stable Diffusion's original"):
        load_motion_module(unet)
    with pytest.raises(WrongKindError, match=r"b\.safetensors: looks like an AnimateDiff motion module"):
        load_unet(module)
    with pytest.raises(WrongKindError, match=r"a\.safetensors: looks like a UNet"):
        load_unet(unet, unet)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_weights_are_refused_by_name(tmp_path, ldm_state, motion_state, value, dtype):
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    bad = {k: v.to(dtype, copy=True) for k, v in ldm_state.items()}
    bad[key][3, 2, 1, 0] = value
    with pytest.raises(BadWeightsError, match=rf"a\.safetensors: tensor {key} holds 1 NaN or infinite of 36864"):
        load_unet(write(tmp_path / "a.safetensors", bad))
    key = "down_blocks.1.motion_modules.0.temporal_transformer.proj_out.weight"
    bad = {k: v.to(dtype, copy=True) for k, v in motion_state.items()}
    bad[key][0, 0] = value
    with pytest.raises(BadWeightsError, match=f"tensor {key} holds 1 NaN"):
        load_motion_module(write(tmp_path / "b.safetensors", bad))


def test_large_weights_are_not_mistaken_for_nan():
    check_finite(torch.full((1000,), 3e38), "a", "file")
    check_finite(torch.full((100_000,), 6e4, dtype=torch.float16), "a", "file")
    check_finite(torch.full((1000,), 1e300, dtype=torch.float64), "a", "file")
    with pytest.raises(BadWeightsError):
        check_finite(torch.tensor([float("inf"), -float("inf")]), "a", "file")


def test_missing_and_extra_tensors_of_a_unet(tmp_path, ldm_state):
    gone = "model.diffusion_model.middle_block.2.out_layers.3.bias"
    short = {k: v for k, v in ldm_state.items() if k != gone}
    with pytest.raises(KeyMismatchError, match=r"1 missing: mid_block\.resnets\.1\.conv2\.bias"):
        load_unet(write(tmp_path / "a.safetensors", short))
    extra = {**ldm_state, "model.diffusion_model.mystery.weight": torch.zeros(1)}
    with pytest.raises(KeyMismatchError, match=r"1 not expected: model\.diffusion_model\.mystery\.weight"):
        load_unet(write(tmp_path / "a.safetensors", extra))
    half = {k: v for k, v in ldm_state.items() if "output_blocks.4" not in k}
    with pytest.raises(FileFormatError, match=r"a\.safetensors: has input blocks with \[2, 2\].*4 output blocks"):
        load_unet(write(tmp_path / "a.safetensors", half))


def test_a_tensor_of_the_wrong_shape(tmp_path, ldm_state, motion_state):
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    with pytest.raises(KeyMismatchError, match=r"mid_block\.resnets\.0\.conv1\.weight has shape \[64, 64, 3, 1\]"):
        load_unet(write(tmp_path / "a.safetensors", {**ldm_state, key: torch.zeros(64, 64, 3, 1)}))
    key = next(k for k in motion_state if k.endswith("proj_out.weight"))
    with pytest.raises(KeyMismatchError, match=r"has shape \[8, 32\], expected \[64, 64\]"):
        load_motion_module(write(tmp_path / "a.safetensors", {**motion_state, key: torch.zeros(8, 32)}))
    key = next(k for k in motion_state if k.endswith("pos_encoder.pe"))
    with pytest.raises(FileFormatError, match="position tables of unequal length"):
        load_motion_module(write(tmp_path / "a.safetensors", {**motion_state, key: torch.zeros(1, 16, 32)}))


def test_widths_that_no_known_unet_has(tmp_path):
    state = to_ldm(unet2d(block_out_channels=(40, 80), norm_num_groups=8).state_dict(), 2)
    with pytest.raises(FileFormatError, match=r"block widths \[40, 80\] are not multiples of 32"):
        load_unet(write(tmp_path / "a.safetensors", state))


def test_eight_bit_weights_need_a_dtype(tmp_path, ldm_state):
    state = {k: v.to(torch.float8_e4m3fn) for k, v in ldm_state.items()}
    path = write(tmp_path / "a.safetensors", state)
    with pytest.raises(FileFormatError, match="is stored in float8_e4m3fn.*give a `dtype`"):
        load_unet(path)
    assert load_unet(path, dtype=torch.float32).dtype == torch.float32


def test_names_say_nothing(tmp_path, ldm_state, motion_state):
    save_file(ldm_state, tmp_path / "vae.ckpt")
    torch.save({"state_dict": motion_state}, tmp_path / "lora.safetensors")
    model = load_unet(tmp_path / "vae.ckpt", tmp_path / "lora.safetensors")
    assert model.config.block_out_channels == (32, 64)


def test_a_folder_is_no_file():
    with pytest.raises(FileFormatError, match="is a folder"):
        open_tensors("/")
