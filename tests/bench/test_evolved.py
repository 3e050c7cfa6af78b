"""AnimateDiff-Evolved as a peer: the same network agrees, and where it cannot run one sentence says why."""

import pytest
import torch

from tests.comfyui.installations import NOT_FOUND, find_installations
from unet_motion.bench import cases, catalogue, evolved, measure, nets
from unet_motion.bench.measure import Ceilings
from unet_motion.cli import main

CPU = torch.device("cpu")
NAMED = ("COMFYUI_PATH", "UNET_MOTION_PACKS")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setitem(nets.WIDTHS, "tiny", (32, 64, 128, 128))
    return cases.Bench(CPU, torch.float32, Ceilings(1e9, 1e9), rounds=1)


@pytest.fixture
def unmeasured(monkeypatch):
    """No time is spent on the machine's ceilings."""
    monkeypatch.setattr(measure, "ceilings", lambda *_: Ceilings(1e9, 1e9))


@pytest.fixture
def both(monkeypatch):
    """ComfyUI and the pack, as the other tests find them."""
    installations = find_installations()
    if not installations:
        pytest.skip(NOT_FOUND)
    comfyui = installations[0]
    if problem := comfyui.problem():
        pytest.skip(problem)
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui.path))
    monkeypatch.setenv("PYTHONPATH", comfyui.environment()["PYTHONPATH"])
    try:
        evolved.find_evolved(None, comfyui.path)
    except cases.NotMeasured as reason:
        pytest.skip(str(reason))
    return comfyui


@pytest.mark.timeout(600)
def test_the_pack_is_timed_with_equal_outputs_in_both_ways_of_norming(bench, both):
    rows = evolved.evolved_step(bench, "tiny", 1, 2, 16)
    assert [row.case for row in rows] == [f"step tiny 1x2x16x16, norms over the {scope}" for scope in ("frame", "clip")]
    for row in rows:
        assert row.error < 1e-5 and row.ratio[0] > 0 and row.theirs > 0 and min(row.memory) > 0
        assert f"ComfyUI {both.version}, AnimateDiff-Evolved " in row.note
    assert torch.nn.GroupNorm.forward.__module__ == "torch.nn.modules.normalization"


def folder_of_comfyui(path):
    (path / "comfy").mkdir(parents=True)
    (path / "comfy" / "sd.py").touch()
    return path


def left_out(capsys, *options):
    """What the command prints about the case where there is nothing to compare with."""
    assert main(["bench", "step-small-evolved", "--device", "cpu", *options]) == 0
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if "left out" in line]
    assert line.strip() in captured.out and "| step" not in captured.out
    return line.strip()


def test_without_comfyui_or_the_pack_one_sentence_says_so(unmeasured, monkeypatch, tmp_path, capsys):
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)
    start = "step-small-evolved is left out: "
    named = "--comfyui FOLDER or COMFYUI_PATH does"
    assert left_out(capsys) == f"{start}ComfyUI is not named: {named}."
    assert left_out(capsys, "--comfyui", str(tmp_path)) == f"{start}{tmp_path} holds no ComfyUI."
    comfyui = folder_of_comfyui(tmp_path / "ComfyUI")
    place = comfyui / "custom_nodes" / "ComfyUI-AnimateDiff-Evolved"
    assert left_out(capsys, "--comfyui", str(comfyui)).startswith(f"{start}AnimateDiff-Evolved is not in {place}; ")
    sentence = left_out(capsys, "--comfyui", str(comfyui), "--evolved", str(tmp_path))
    assert sentence.startswith(f"{start}AnimateDiff-Evolved is not in {tmp_path}; ")


def test_a_comfyui_that_does_not_start_is_left_out_with_its_own_words(unmeasured, monkeypatch, tmp_path, capsys):
    comfyui = folder_of_comfyui(tmp_path / "ComfyUI")
    (comfyui / "comfy" / "cli_args.py").write_text("raise ImportError('its packages are missing')\n")
    pack = comfyui / "custom_nodes" / "ComfyUI-AnimateDiff-Evolved"
    (pack / "animatediff").mkdir(parents=True)
    (pack / "animatediff" / "motion_module_ad.py").touch()
    monkeypatch.setitem(catalogue.CPU_CASES, "step-small-evolved", lambda b: evolved.evolved_step(b, "small", 1, 2, 8))
    sentence = left_out(capsys, "--comfyui", str(comfyui))
    assert sentence.endswith("does not run here: ImportError: its packages are missing.")


def test_folders_are_found_in_their_order(monkeypatch, tmp_path):
    first, second = (folder_of_comfyui(tmp_path / name) for name in ("first", "second"))
    monkeypatch.setenv("COMFYUI_PATH", f"{first}:{second}")
    assert evolved.find_comfyui(None) == first and evolved.find_comfyui(second) == second
    packs = [tmp_path / "packs" / evolved.PACK, first / "custom_nodes" / evolved.PACK, tmp_path / "given"]
    for pack in packs:
        (pack / "animatediff").mkdir(parents=True)
        (pack / "animatediff" / "motion_module_ad.py").touch()
    monkeypatch.setenv("UNET_MOTION_PACKS", str(tmp_path / "packs"))
    assert evolved.find_evolved(None, first) == packs[0] and evolved.find_evolved(packs[2], first) == packs[2]
    monkeypatch.delenv("UNET_MOTION_PACKS")
    assert evolved.find_evolved(None, first) == packs[1]
