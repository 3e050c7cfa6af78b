"""The shipped files: what they hold, what they reach, and what they draw."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unet_motion.bundled import WEIGHTS, load_bundled
from unet_motion.training.bundled_model import drawn_clips as data
from unet_motion.training.bundled_model.evaluate import TARGETS, SampleSettings, missed_targets, sample_clips
from unet_motion.training.bundled_model.export import JUDGE_WEIGHTS, export_bundled, load_judge
from unet_motion.training.bundled_model.prompts import plain_prompt, vocabulary
from unet_motion.training.bundled_model.train_autoencoder import psnr, sample_frames

FOLDER = Path(WEIGHTS).parent


@pytest.fixture(scope="module")
def parts():
    return load_bundled()


def taesd_keys():
    """TAESD's parameter names, from its published layout: the numbers of its blocks and of its plain convolutions."""
    names = ["vae_scale", "vae_shift"]
    layout = {
        "encoder": ({0: True, 2: False, 6: False, 10: False, 14: True}, [1, 3, 4, 5, 7, 8, 9, 11, 12, 13]),
        "decoder": ({1: True, 7: False, 12: False, 17: False, 19: True}, [3, 4, 5, 8, 9, 10, 13, 14, 15, 18]),
    }
    for part, (convolutions, blocks) in layout.items():
        for number, bias in convolutions.items():
            names += [f"taesd_{part}.{number}.{k}" for k in (["weight", "bias"] if bias else ["weight"])]
        names += [f"taesd_{part}.{n}.conv.{i}.{k}" for n in blocks for i in (0, 2, 4) for k in ("weight", "bias")]
    return set(names)


def test_the_file_is_small_float16_and_has_taesd_names():
    assert WEIGHTS.stat().st_size <= 24 * 2**20
    assert JUDGE_WEIGHTS.stat().st_size <= 2**20
    with safe_open(str(WEIGHTS), framework="pt") as file:
        keys = list(file.keys())
        assert {str(file.get_slice(k).get_dtype()) for k in keys} == {"F16"}
    assert {k.split(".")[0] for k in keys} == {"unet", "text_encoder", "vae"}
    assert {k.removeprefix("vae.") for k in keys if k.startswith("vae.")} == taesd_keys()


def test_the_vocabulary_is_what_training_uses(parts):
    assert parts.tokenizer.words == vocabulary()
    assert not any(parameter.requires_grad for parameter in parts.unet.parameters())


def test_the_autoencoder_reaches_its_figure_on_held_out_frames(parts):
    frames = sample_frames(np.random.default_rng(4711), 32, held_out=True)
    assert psnr(parts.autoencoder, frames) >= 30.0
    with torch.no_grad():
        latents = parts.autoencoder.encode(frames)
    assert 0.7 < latents.std().item() < 1.3
    assert latents.abs().max().item() < 6


def test_the_committed_figures_meet_the_targets():
    figures = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    assert figures["clips"] >= 200
    assert missed_targets(figures) == []
    assert set(TARGETS) <= set(figures)


def test_the_model_draws_what_it_is_asked_for(parts):
    words = [("star", "red", "left"), ("circle", "blue", "right"), ("heart", "green", "up"),
             ("square", "yellow", "down"),
             ("ring", "pink", "still"), ("triangle", "orange", "spinning")]  # fmt: skip
    asked = [(data.SHAPES.index(s), data.COLOUR_NAMES.index(c), data.MOTIONS.index(m)) for s, c, m in words]
    prompts = [plain_prompt(*triple) for triple in asked]
    clips = sample_clips(parts, prompts, list(range(6)), SampleSettings(steps=12))
    verdict = load_judge().verdict(clips)
    shape, colour, motion = torch.tensor(asked).T
    assert (verdict.colour == colour).sum() >= 5
    assert (verdict.shape == shape).sum() >= 5
    assert (verdict.motion == motion).sum() >= 5
    again = sample_clips(parts, prompts[:1], [0], SampleSettings(steps=12))
    assert (again[0] - clips[0]).abs().max() < 0.02


def test_a_written_model_reads_back(parts, tmp_path):
    path = tmp_path / "again.safetensors"
    export_bundled(parts, path, parts.info)
    again = load_bundled(path=path)
    assert again.info == parts.info and again.tokenizer.words == parts.tokenizer.words
    for name in ("unet", "text_encoder", "autoencoder"):
        first, second = getattr(parts, name).state_dict(), getattr(again, name).state_dict()
        assert [k for k in first if not torch.equal(first[k], second[k])] == []


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    broken = load_bundled()
    broken.unet.conv_in.weight[0, 0, 0, 0] = 1e9
    with pytest.raises(ValueError, match="unet.conv_in.weight"):
        export_bundled(broken, tmp_path / "model.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a model as `unet-motion train bundled` writes it"):
        load_bundled(path=tmp_path / "none.safetensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.safetensors cannot be read"):
        load_bundled(path=tmp_path / "empty.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no 'unet_motion' metadata"):
        load_bundled(path=tmp_path / "other.safetensors")
