"""Warnings of the loaders point to the line that called them."""

import warnings

import torch

from tests.formats.files import adapter, to_ldm, to_original, unet2d, write
from unet_motion import UNetMotionModel, load_motion_module, load_unet

FOUR = {"block_out_channels": (32, 32, 64, 64)}
IMAGE = FOUR | {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


def place_of(call):
    """The text of the one warning of a call, which must name the line of the call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = caught
    assert warning.filename == call.__code__.co_filename
    assert warning.lineno == call.__code__.co_firstlineno
    return str(warning.message)


def small_unet():
    return UNetMotionModel(
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), block_out_channels=(32, 64), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=16, num_attention_heads=4, motion_num_attention_heads=4,
    )  # fmt: skip


def test_of_from_pretrained(tmp_path):
    unet = small_unet()
    unet.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    write(file, {**unet.state_dict(), "odd": torch.zeros(2)})
    assert "odd" in place_of(lambda: UNetMotionModel.from_pretrained(tmp_path))


def test_of_load_motion_module(tmp_path):
    state = to_original(adapter(**FOUR).state_dict())
    part = write(tmp_path / "part.safetensors", {k: v for k, v in state.items() if k.startswith("down_blocks")})
    assert "a part of a motion module" in place_of(lambda: load_motion_module(part))
    beside = write(tmp_path / "beside.safetensors", {k: v for k, v in state.items() if not k.endswith(".pe")})
    assert "no position tables" in place_of(lambda: load_motion_module(beside))


def test_of_load_unet(tmp_path):
    state = to_original(adapter(**FOUR).state_dict())
    part = write(tmp_path / "part.safetensors", {k: v for k, v in state.items() if k.startswith("down_blocks")})
    base = write(tmp_path / "base.safetensors", to_ldm(unet2d(**IMAGE).state_dict(), 2))
    assert "a part of a motion module" in place_of(lambda: load_unet(base, part))
    whole = to_ldm(unet2d(**IMAGE).state_dict(), 2, "model.diffusion_model.")
    odd = write(tmp_path / "odd.safetensors", {**whole, "unknown.x": torch.zeros(1)})
    module = write(tmp_path / "module.safetensors", state)
    assert "unknown.x" in place_of(lambda: load_unet(odd, module))
