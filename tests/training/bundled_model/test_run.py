"""The two commands, end to end."""

import json

import pytest

from unet_motion.bundled import load_bundled, motion_lora_path
from unet_motion.cli import main
from unet_motion.training.bundled_model import lora_figures
from unet_motion.training.bundled_model.run import BundledRecipe, BundledRun, GateError
from unet_motion.training.runs import RunLog


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", "bundled", "--quick", "--folder", str(folder)]) == 0
    return folder


def test_one_command_makes_a_model_that_loads(folder):
    parts = load_bundled(path=folder / "model.safetensors")
    assert parts.info["frames"] == 16 and parts.info["beta_schedule"] == "linear"
    stages = [json.loads(line)["stage"] for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    order = ["autoencoder", "decoder", "judge", "images", "placed", "motion", "steady", "evaluate", "export"]
    assert [stage for stage in dict.fromkeys(stages) if stage in order] == order
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert figures == parts.info["figures"] and figures["clips"] == 2


def test_a_finished_run_is_not_trained_again(folder):
    before = (folder / "model.safetensors").read_bytes()
    stages = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    assert len(stages) == 7
    BundledRun(folder, BundledRecipe.quick(), RunLog(None, quiet=True)).run()
    assert (folder / "model.safetensors").read_bytes() == before
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")} == stages


def test_a_stage_below_its_gate_stops_the_run(folder):
    (folder / "autoencoder.safetensors").unlink()
    with pytest.raises(GateError, match="the autoencoder reaches .* dB; expected at least 28.0 dB"):
        recipe = BundledRecipe(autoencoder=BundledRecipe.quick().autoencoder)
        BundledRun(folder, recipe, RunLog(None, quiet=True)).run()


def test_evaluate_prints_json_and_says_what_is_missed(capsys):
    status = main(["evaluate", "--clips", "3", "--steps", "1", "--device", "cpu", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["clips"] == 3 and figures["steps"] == 1
    assert status == (1 if figures["missed"] else 0)


def test_evaluate_refuses_nonsense(capsys):
    assert main(["evaluate", "--clips", "0"]) == 2
    assert "--clips is 0" in capsys.readouterr().err


def test_evaluate_refuses_a_device_that_is_not_there(capsys):
    assert main(["evaluate", "--clips", "1", "--device", "nonsense"]) == 2
    assert "device 'nonsense' cannot be used here" in capsys.readouterr().err


def test_the_log_is_one_json_object_a_line_in_the_file_and_on_the_console(tmp_path, capsys):
    log = RunLog(tmp_path / "new" / "log.jsonl")
    log.write("images", step=1, loss=0.1234567)
    log.write("motion", text="a\nb")
    RunLog(tmp_path / "new" / "log.jsonl", quiet=True).write("export")
    text = (tmp_path / "new" / "log.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row.pop("seconds") >= 0 for row in rows] == [True] * 3
    assert rows == [
        {"stage": "images", "step": 1, "loss": 0.12346}, {"stage": "motion", "text": "a\nb"}, {"stage": "export"}
    ]  # fmt: skip
    assert text.count("\n") == 3 and capsys.readouterr().out.splitlines() == text.splitlines()[:2]


@pytest.mark.parametrize("name", ["pan-left", "my/pan.safetensors"])
def test_a_motion_lora_is_measured_by_its_name_or_by_its_file(name, monkeypatch, capsys):
    rows, asked = [{"strength": 0.5, "moves": 1.234}, {"strength": 1.0, "moves": -20.0}], []

    def figures(parts, lora, clips, seed, settings):
        asked.append((str(lora), clips, seed, settings.steps, settings.guidance, settings.sampler))
        return rows

    monkeypatch.setattr(lora_figures, "lora_figures", figures)
    words = ["evaluate", "--motion-lora", name, "--clips", "3", "--seed", "5", "--steps", "2", "--device", "cpu"]
    assert main([*words, "--guidance", "2.5", "--sampler", "euler"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "      strength         moves", "          0.50          1.23", "          1.00        -20.00"
    ]  # fmt: skip
    assert main([*words, "--json"]) == 0 and json.loads(capsys.readouterr().out) == rows
    path = str(motion_lora_path(name)) if name == "pan-left" else name
    assert asked[0] == (path, 3, 5, 2, 2.5, "euler") and asked[1][0] == path
