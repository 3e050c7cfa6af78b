"""`generate` under torchrun: its processes share the windows of one clip, and one of them writes it."""

import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from unet_motion import ContextWindows, WindowPart
from unet_motion.cli import main
from unet_motion.cli.torchrun import Launch


def torchrun(number, count=2, local=None, port=0):
    """The variables that torchrun sets for a process."""
    given = {"RANK": number, "LOCAL_RANK": number if local is None else local, "WORLD_SIZE": count}
    place = {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return {name: str(value) for name, value in {**given, **place}.items()}


WINDOWS = [WindowPart(ContextWindows(8, 1), start=0.5), WindowPart(ContextWindows(8, 1), views=True)]


def of(device=None, windows=WINDOWS):
    return Launch.of(device, windows)


@pytest.fixture
def launched(monkeypatch):
    def set_all(*arguments, **named):
        for name, value in torchrun(*arguments, **named).items():
            monkeypatch.setenv(name, value)

    return set_all


def generate_as(number, port, arguments):
    """The second process's exit status."""
    torch.set_num_threads(1)
    os.environ.update(torchrun(number, port=port))
    return main(arguments)


def frames(path):
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)])


def test_two_processes_draw_the_clip_of_one_and_the_first_writes_it(model_file, tmp_path, monkeypatch, capsys):
    def words(name):
        windows = ["--frames", "19", "--window", "8", "--overlap", "3", "--windows-at-once", "2", "--device", "cpu"]
        more = ["--steps", "2", "--scale", "1", "--model", str(model_file), "--out", str(tmp_path / name)]
        return ["generate", "a red star moving left", *windows, *more]

    assert main(words("one.webp")) == 0
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    capsys.readouterr()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        other = pool.apply_async(generate_as, (1, port, words("second.webp")))
        for name, value in torchrun(0, port=port).items():
            monkeypatch.setenv(name, value)
        assert main(words("both.webp")) == 0 and other.get(300) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.webp", "one.webp"]
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and "both.webp: 19 frames" in said.out
    difference = np.abs(frames(tmp_path / "both.webp") - frames(tmp_path / "one.webp"))
    assert difference.shape[0] == 19 and difference.max() <= 1 and not torch.distributed.is_initialized()


def test_a_process_of_its_own_is_no_rank(monkeypatch, launched):
    assert of("cpu", None) == Launch("cpu")
    monkeypatch.setenv("WORLD_SIZE", "4")  # as Slurm's scripts set it
    assert of(None, None) == Launch(None)
    launched(0, count=1)
    with of("cpu", None).ranks() as ranks:
        assert ranks is None and of("cpu", None).speaks


def test_each_process_has_a_card_of_its_own(monkeypatch, launched):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launched(3, count=4, local=1)
    assert of() == of("cuda") == Launch("cuda:1", 4, 3) and not of().speaks
    assert of("cpu") == Launch("cpu", 4, 3)
    launched(2, count=4, local=2)
    with pytest.raises(ValueError, match="more processes here than the 2 CUDA devices"):
        of()


def test_processes_without_windows_or_on_one_card_are_refused(launched, capsys):
    launched(0, count=3)
    with pytest.raises(ValueError, match="torchrun started 3 processes, which share windows: give --window"):
        of(windows=None)
    with pytest.raises(ValueError, match="--device is cuda:1, but torchrun started 3 processes: expected cuda or cpu"):
        of("cuda:1")
    views = ["--window", "8", "--overlap", "1", "--views"]
    assert main(["generate", "a red star", "--frames", "19", "--out", "never.webp", *views]) == 2
    assert "--views" in capsys.readouterr().err
