"""The bundled model's parts: without their weights, and the dtype that they compute in."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unet_motion import MotionPipeline
from unet_motion.bundled import WEIGHTS, load_bundled
from unet_motion.ops import cpu_vectors
from unet_motion.training.bundled_model.export import load_judge

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


@pytest.mark.parametrize("fast", [False, True])
def test_where_no_dtype_is_named_the_unet_computes_in_bfloat16_if_the_processor_is_made_for_it(fast, monkeypatch):
    monkeypatch.setattr(cpu_vectors, "BFLOAT16", fast)
    pipeline, wide = MotionPipeline.bundled(), MotionPipeline.bundled(dtype=torch.float32)
    assert pipeline.dtype == (torch.bfloat16 if fast else torch.float32) and wide.dtype == torch.float32
    for part in ("text_encoder", "autoencoder"):
        assert {p.dtype for p in getattr(pipeline, part).parameters()} == {torch.float32}
    assert MotionPipeline.bundled(dtype=torch.float16).dtype == torch.float16
    assert MotionPipeline.bundled(device="meta").dtype == torch.float32, "only a CPU is asked"
    assert next(MotionPipeline.bundled(dtype=torch.float64).autoencoder.parameters()).dtype == torch.float64


def test_a_clip_in_bfloat16_differs_by_less_than_it_shows():
    clips = []
    for dtype in (torch.bfloat16, torch.float32):
        frames = MotionPipeline.bundled(dtype=dtype)("a blue circle growing", seed=3, steps=6, progress=False)
        clips.append(torch.from_numpy(frames).permute(0, 3, 1, 2).double() / 255)
    assert 0 < (clips[0] - clips[1]).square().mean() < 10**-4.5  # 45 dB
    seen = [[logits.argmax(-1).tolist() for logits in load_judge().frames(clip.float())] for clip in clips]
    assert seen[0] == seen[1]
