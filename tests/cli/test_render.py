"""`unet-motion render`: the clips of a file of jobs, whoever draws them and whoever is lost on the way."""

import json
import multiprocessing

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.cli.conftest import SIZES
from unet_motion.cli import generate, main, render
from unet_motion.video import read_metadata


def failures(folder):
    return [json.loads(line) for line in (folder / render.FAILURES).read_text().splitlines()]


def alone(model_file, folder, job):
    """What `generate` makes of a job's options, in this process."""
    words = [f"--{name}={value}" for name, value in {**SIZES, **job}.items() if name not in ("prompt", "out")]
    path = folder / job["out"]
    assert main(["generate", job["prompt"], "--out", str(path), "--model", str(model_file), *words]) == 0
    return path


JOBS = [
    {"prompt": f"a red star moving {way}", "seed": i, "out": f"{i}.webp"}
    for i, way in enumerate(("left", "right", "left", "right"))
]


def pictures(path):
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def same_as_alone(model_file, folder, tmp_path):
    for job in JOBS:
        expected = alone(model_file, tmp_path / "alone", job)
        found = folder / job["out"]
        assert np.array_equal(pictures(found), pictures(expected))
        assert found.read_bytes() == expected.read_bytes()
    assert len({(folder / job["out"]).read_bytes() for job in JOBS}) == len(JOBS)


def kill_at_the_first_clip(monkeypatch, kill):
    place, killed = render._place, []

    def killing(*arguments):
        if not killed:
            killed.append(kill())
        return place(*arguments)

    monkeypatch.setattr(render, "_place", killing)
    return killed


def test_two_workers_of_which_one_is_killed_give_what_generate_gives(batch, model_file, monkeypatch, tmp_path, capsys):
    def kill():
        workers = multiprocessing.active_children()
        workers[0].kill()
        workers[0].join()
        return len(workers)

    killed = kill_at_the_first_clip(monkeypatch, kill)
    status, folder = batch(JOBS, "--workers", "2", "--device", "cpu")
    said = capsys.readouterr()
    assert status == 0 and killed == [2]
    assert said.err.count("its worker was lost, another one draws it") == 1 and "clips: 4 of 4" in said.err
    assert said.out == f"{folder}: drawn 4, there before 0, failed 0\n"
    assert sorted(path.name for path in folder.iterdir()) == [job["out"] for job in JOBS]
    assert multiprocessing.active_children() == []
    same_as_alone(model_file, folder, tmp_path)


def test_two_actors_of_which_one_is_killed_give_what_generate_gives(batch, model_file, monkeypatch, tmp_path, capsys):
    pytest.importorskip("ray", reason="--address needs the extra `ray`")
    psutil = pytest.importorskip("psutil")

    def kill():
        actors = [p for p in psutil.Process().children(recursive=True) if "ray::Renderer" in " ".join(p.cmdline())]
        actors[0].kill()
        return len(actors)

    killed = kill_at_the_first_clip(monkeypatch, kill)
    status, folder = batch(JOBS, "--workers", "2", "--device", "cpu", "--address", "local")
    said = capsys.readouterr()
    assert status == 0 and killed == [2]
    assert said.err.count("its worker was lost, another one draws it") == 1
    assert said.out.endswith(f"{folder}: drawn 4, there before 0, failed 0\n")  # behind what Ray says
    same_as_alone(model_file, folder, tmp_path)


def test_without_ray_an_address_says_which_extra_brings_it(batch, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert batch(JOBS, "--address", "auto")[0] == 2
    assert "`pip install ray` (the extra `ray`)" in capsys.readouterr().err


# what is there, and what fails


def test_each_file_of_a_clip_is_judged_on_its_own(batch, in_this_process, capsys):
    small = {"prompt": "a red star", "steps": 1}
    other = {**small, "seed": 5, "out": "5.webp", "sheet": "5.png"}
    job = {**small, "seed": 1, "out": "1.webp", "sheet": "1.png"}
    frames = {**small, "seed": 2, "out": "frames"}
    _, folder = batch([other, job, frames])
    del in_this_process[:]

    def refused(words, of):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert batch(of)[0] == 2 and in_this_process == []
        assert words in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    sheet = (folder / "1.png").read_bytes()
    (folder / "1.png").unlink()
    refused("1.webp is there with steps 1, but the line asks for 2", [{**job, "steps": 2}])
    (folder / "1.png").write_bytes((folder / "5.png").read_bytes())
    refused("1.png is there with seed 5, but the line asks for 1", [job])
    (folder / "1.png").write_bytes(b"mine")
    refused("1.png is there and holds no settings", [job])
    (folder / "1.webp").unlink()
    refused("1.png is there and holds no settings", [job])
    assert batch([job], "--overwrite")[0] == 0 and in_this_process == [1] and (folder / "1.png").read_bytes() == sheet
    del in_this_process[:]
    first, last = folder / "frames" / "frame_00000.png", folder / "frames" / "frame_00003.png"
    for lacking in (first, last):
        content = lacking.read_bytes()
        lacking.unlink()
        assert batch([frames])[0] == 0 and in_this_process == [1] and lacking.read_bytes() == content
        del in_this_process[:]
    assert batch([frames])[0] == 0 and in_this_process == []
    (folder / "frames" / "frame_copy.png").write_bytes(content)
    refused("holds 5 pictures, but the line asks for 4 frames", [frames])
    last.write_bytes(b"mine")
    refused("frame_00003.png is there and holds no settings", [frames])


def test_what_is_there_is_not_drawn_again_unless_its_line_says_something_else(batch, in_this_process, capsys):
    outs = {"out": "1.webp"}, {"out": "frames"}, {"out": "3.gif", "sheet": "3.png", "freeu": "0.9,0.2,1.2,1.4"}
    jobs = [{"prompt": "a red star", "seed": seed, "steps": 1, **out} for seed, out in enumerate(outs)]
    _, folder = batch(jobs[:2])
    before = (folder / "1.webp").read_bytes()
    assert batch(jobs)[0] == 0 and in_this_process == [1, 2, 3]
    assert (folder / "1.webp").read_bytes() == before and len(list((folder / "frames").iterdir())) == SIZES["frames"]
    assert capsys.readouterr().out.endswith("drawn 1, there before 2, failed 0\n")
    (folder / "3.png").unlink()
    assert batch(jobs)[0] == 0 and in_this_process == [1, 2, 3, 3] and (folder / "3.png").exists()
    changed = [{**jobs[0], "negative": "blue"}, *jobs[1:]]
    assert batch(changed)[0] == 2 and in_this_process == [1, 2, 3, 3]
    assert "line 1: " in (said := capsys.readouterr().err) and "negative_prompt" in said and "'blue'" not in said
    assert (folder / "1.webp").read_bytes() == before
    assert batch(changed, "--overwrite")[0] == 0 and in_this_process == [1, 2, 3, 3, 1]
    assert read_metadata(folder / "1.webp")["negative_prompt"] == "blue"
    (folder / "1.webp").write_bytes(b"else")
    assert batch(changed)[0] == 2 and "holds no settings of this program" in capsys.readouterr().err


def test_failures_are_lines_of_a_file_and_the_other_clips_are_there(batch, in_this_process, monkeypatch, capsys):
    original = generate.write

    def write(args, path, frames):
        if args.seed == 2:
            raise OSError("no room on the disk")
        if args.seed == 3:
            raise RuntimeError("out of memory\nwith details")
        return original(args, path, frames)

    monkeypatch.setattr(generate, "write", write)
    jobs = ["", *({"prompt": "a red star", "seed": seed, "out": f"{seed}.webp"} for seed in (1, 2, 3, 4))]
    status, folder = batch(jobs, "--workers", "1")
    assert status == 1 and sorted(path.name for path in folder.iterdir()) == ["1.webp", "4.webp", render.FAILURES]
    first, second = failures(folder)
    assert first == {"job": 3, "error": "no room on the disk"}
    assert second["job"] == 4 and second["error"].startswith("RuntimeError: out of memory")
    assert capsys.readouterr().out == f"{folder}: drawn 2, there before 0, failed 2\n"
    monkeypatch.setattr(generate, "write", original)
    assert batch(jobs)[0] == 0 and not (folder / render.FAILURES).exists() and in_this_process == [2, 3, 4, 5, 3, 4]


def test_a_clip_that_cannot_be_put_in_its_place_fails(batch, in_this_process, monkeypatch):
    def full(folder, job, files):
        return original(folder / "file", job, files)

    original = render._place
    _, folder = batch([{"prompt": "a red star", "out": "file"}])
    for frame in (folder / "file").iterdir():
        frame.unlink()
    (folder / "file").rmdir()
    (folder / "file").write_text("no folder")
    monkeypatch.setattr(render, "_place", full)
    status, _ = batch([{"prompt": "a red star", "out": "x.webp"}])
    assert status == 1 and failures(folder)[0]["job"] == 1 and "file" in failures(folder)[0]["error"]


def test_two_runs_in_one_folder_are_refused(batch, in_this_process, tmp_path):
    import threading

    from unet_motion.files.lock import folder_lock

    (tmp_path / "clips").mkdir()
    ready, done = threading.Event(), threading.Event()

    def hold():
        with folder_lock(tmp_path / "clips"):
            ready.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait()
    try:
        assert batch([{"prompt": "a red star"}])[0] == 2 and in_this_process == []
    finally:
        done.set()
        thread.join()


def test_jobs_of_one_model_follow_each_other_and_it_is_loaded_once(batch, in_this_process, monkeypatch):
    loads, load = [], generate.load

    def noting(args, device):
        if device != "meta":
            loads.append((args.seed, device))
        return load(args, device)

    monkeypatch.setattr(generate, "load", noting)
    small = {"steps": 1, "frames": 2}
    jobs = [{"prompt": "a red star", "seed": seed, "model": None, "motion_lora": lora, **small}
            for seed, lora in ((1, []), (2, ["spin:0.5"]), (3, []), (4, ["spin:0.5"]), (5, ["spin"]))]  # fmt: skip
    assert batch(jobs, "--workers", "1", "--device", "cpu")[0] == 0
    assert in_this_process == [1, 3, 2, 4, 5] and loads == [(1, "cpu"), (2, "cpu"), (5, "cpu")]


def test_models_of_one_name_in_two_folders_are_two(batch, in_this_process, model_file, tmp_path):
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(model_file, "pt") as file:
        metadata = file.metadata()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        state = {key: w + (0.1 * torch.randn_like(w) if name == "b" else 0) for key, w in load_file(model_file).items()}
        save_file(state, tmp_path / name / "m.safetensors", metadata)
    jobs = [{"prompt": "a red star", "seed": 1, "steps": 1, "model": str(tmp_path / name / "m.safetensors"),
             "out": f"{name}.webp"} for name in ("a", "b")]  # fmt: skip
    status, folder = batch([*jobs, {**jobs[0], "model": str(model_file), "out": "c.webp"}], "--workers", "1")
    a, b, c = (pictures(folder / f"{name}.webp") for name in "abc")
    assert status == 0 and np.array_equal(a, c) and not np.array_equal(a, b)
