"""The motion LoRAs that ship: small, fitting, and moving the picture by as much as asked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from unet_motion import apply_motion_lora, remove_motion_lora
from unet_motion.bundled import WEIGHTS, load_bundled, motion_lora_names, motion_lora_path
from unet_motion.cli import main
from unet_motion.training.bundled_model.camera_clips import CAMERA, OWN, sample_camera_clips, write_camera_clips
from unet_motion.training.bundled_model.drawn_clips import draw
from unet_motion.training.bundled_model.evaluate import SampleSettings, sample_clips
from unet_motion.training.bundled_model.lora_figures import MEASURES, lora_figures, measure_motion
from unet_motion.training.data.clip_files import find_clips

FIGURES = Path(WEIGHTS).with_name("motion_loras") / "figures.json"
NOISE = {"right_px": 0.5, "growth": 0.03, "turn_degrees": 3}
"""By how much clips of still shapes seem to move without a LoRA: their outlines tremble."""
LEAST = {"right_px": 12, "growth": 0.2, "turn_degrees": 50}
"""By how much every single clip has to move at strength 1."""
FEW = {"clips": 2, "settings": SampleSettings(steps=4)}


def worst(row, measure, sign):
    """The measure of the clip that moves least, or the other way."""
    return min(sign * row[f"{measure}_least"], sign * row[f"{measure}_most"])


@pytest.fixture(scope="module")
def parts():
    return load_bundled()


@pytest.fixture(scope="module")
def still(parts):
    """The measures of the same clips without a LoRA."""
    return lora_figures(parts, motion_lora_path("pan-left"), (0.0,), **FEW)[0]


def test_each_is_small_and_says_how_it_was_made():
    assert motion_lora_names() and set(motion_lora_names()) <= set(MEASURES) == set(CAMERA)
    for name in motion_lora_names():
        path = motion_lora_path(name)
        assert path.stat().st_size <= 300_000
        with safe_open(str(path), "pt") as file:
            assert all(".temporal_transformer." in key for key in file.keys())  # noqa: SIM118
            said = json.loads(file.metadata()["unet_motion"])["training"]
        assert said["from"]["base"] == "model.safetensors" and said["how"]["trained_steps"] == said["how"]["steps"]
    with pytest.raises(FileNotFoundError, match="expected one of pan-left"):
        motion_lora_path("tilt")


@pytest.mark.parametrize("name", motion_lora_names())
def test_each_moves_the_picture_the_more_the_stronger_it_is(name, parts, still):
    measure, sign = MEASURES[name]
    rows = [still, *lora_figures(parts, motion_lora_path(name), (0.5, 1.0), **FEW)]
    moved = [sign * row[measure] for row in rows]
    assert moved[0] < moved[1] + NOISE[measure] < moved[2]
    assert worst(rows[2], measure, sign) - moved[0] > LEAST[measure]


@pytest.mark.parametrize("name", motion_lora_names())
def test_each_fits_and_at_strength_zero_changes_nothing_bitwise(name, parts):
    x, text = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0)), parts.encode_prompts(["a star"])
    given = {"text_embeds": text[1], "time_ids": torch.zeros(1, 1)}

    @torch.no_grad()
    def output():
        return parts.unet.forward_frames(x, 600.0, text[0], 16, added_cond_kwargs=given)

    expected = output()
    applied = apply_motion_lora(parts.unet, motion_lora_path(name), 0.0)
    assert applied.unmatched == [] and len(applied.matched) == 56 and torch.equal(output(), expected)
    applied.strength = 1.0
    assert not torch.equal(output(), expected)
    remove_motion_lora(parts.unet)
    assert torch.equal(output(), expected)


def test_the_committed_figures_rise_with_the_strength():
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert sorted(figures) == motion_lora_names()
    for name, rows in figures.items():
        measure, sign = MEASURES[name]
        moved = [sign * row[measure] for row in rows]
        assert [row["strength"] for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert all(a < b + NOISE[measure] for a, b in zip(moved, moved[1:], strict=False)), name
        assert moved[0] < moved[2] < moved[3] < moved[4], name
        assert worst(rows[4], measure, sign) - moved[0] > LEAST[measure], name


def test_a_pan_moves_the_first_clip_that_everybody_makes(parts):
    """Directions are decided by the noise too: an earlier pan moved this clip the wrong way."""
    for name in ("pan-left", "pan-right"):
        applied = apply_motion_lora(parts.unet, motion_lora_path(name))
        clips = sample_clips(parts, ["a red star still"] * 2, [0, 1], FEW["settings"])
        remove_motion_lora(parts.unet, applied)
        measure, sign = MEASURES[name]
        assert (sign * measure_motion(clips)[measure]).min() > LEAST[measure]


def test_a_name_on_the_command_line_is_the_bundled_file(tmp_path, capsys):
    words = ["generate", "a red star still", "--steps", "1", "--scale", "1", "--json", "--out"]
    path = str(motion_lora_path("pan-left"))
    for name, lora in (("a", "pan-left:0.5"), ("b", f"{path}:0.5"), ("c", "pan-left:0")):
        assert main([*words, str(tmp_path / name), "--motion-lora", lora]) == 0
    pictures = {name: [np.asarray(Image.open(p)) for p in sorted((tmp_path / name).glob("*.png"))] for name in "abc"}
    assert len(pictures["a"]) == 16 and np.array_equal(pictures["a"], pictures["b"])
    assert not np.array_equal(pictures["a"], pictures["c"])
    assert json.loads(capsys.readouterr().out.splitlines()[0])["motion_lora"] == ["pan-left:0.5"]


@pytest.mark.parametrize("name", sorted(CAMERA))
def test_drawn_clips_move_as_their_camera_does(name):
    clips = sample_camera_clips(np.random.default_rng(3), name, 12)
    found = measure_motion(draw(clips)[0])
    measure, sign = MEASURES[name]
    least = {"right_px": 18, "growth": 1.7, "turn_degrees": 100}[measure]
    assert (sign * found[measure]).min() > least
    if name != "spin":
        assert (found["turn_degrees"] - torch.rad2deg(clips.turn)).abs().median() < 5


def test_camera_clips_are_a_folder_to_train_on(tmp_path):
    write_camera_clips(tmp_path / "clips", "spin", 3)
    sources = find_clips(tmp_path / "clips")
    assert len(sources) == 3 and all(source.caption.startswith("a ") for source in sources)
    assert set(OWN) == set(CAMERA)
    with pytest.raises(FileExistsError, match="is not empty"):
        write_camera_clips(tmp_path / "clips", "spin", 3)
    with pytest.raises(ValueError, match="'tilt', expected one of pan-left"):
        write_camera_clips(tmp_path / "new", "tilt", 3)
