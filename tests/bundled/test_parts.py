"""The bundled model's parts without their weights."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unet_motion import MotionPipeline
from unet_motion.bundled import WEIGHTS, load_bundled

PARTS = ("unet", "text_encoder", "autoencoder")


def test_on_the_device_meta_all_is_there_but_the_values():
    real, empty = load_bundled(), load_bundled(device="meta", dtype=torch.float16)
    for name in PARTS:
        expected, found = (getattr(parts, name).state_dict() for parts in (real, empty))
        assert {key: value.shape for key, value in found.items()} == {key: v.shape for key, v in expected.items()}
        assert all(value.is_meta and value.dtype == torch.float16 for value in found.values())
    assert empty.info == real.info and empty.tokenizer.words == real.tokenizer.words
    pipeline = MotionPipeline.bundled(device="meta")
    assert pipeline.check("a red star", frames=32) is None
    with pytest.raises(ValueError, match="frames is 33, expected 1 to 32"):
        pipeline.check("a red star", frames=33)


def test_a_file_that_lacks_a_tensor_is_refused_there_too(tmp_path):
    with safe_open(WEIGHTS, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != "unet.conv_in.bias"}  # noqa: SIM118
        save_file(tensors, tmp_path / "short.safetensors", file.metadata())
    for device in ("cpu", "meta"):
        with pytest.raises(ValueError, match=r"does not fit the unet: missing \['conv_in.bias'\]"):
            load_bundled(device=device, path=tmp_path / "short.safetensors")
