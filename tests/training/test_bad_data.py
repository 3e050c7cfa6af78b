"""Data that is no good, as a user meets it: one sentence that names the file, or it is put up with."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_train_motion_module import FEW, base  # noqa: F401 - a fixture
from tests.training.test_trainer import ROOT
from unet_motion.cli import main
from unet_motion.cli.train_motion_module import OUTPUT
from unet_motion.video import write_video


def frames(count, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def empty(folder):
    folder.mkdir()


def one_frame(folder):
    write_video(folder / "one.webp", frames(1))


def corrupt_video(folder):
    pytest.importorskip("av")
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(range(256)) * 8)


def wrong_sizes(folder):
    write_video(folder / "walk", frames(3))
    Image.fromarray(frames(1, 24)[0]).save(folder / "walk" / "zz.png")


def truncated(folder):
    write_video(folder / "cut.webp", frames(6))
    whole = (folder / "cut.webp").read_bytes()
    (folder / "cut.webp").write_bytes(whole[: len(whole) // 3])


TABLE = {
    empty: ["has no clips", "expected videos, GIFs, WebPs or folders of frames"],
    one_frame: ["one.webp: gives 1 frames, expected at least the 3 of a clip"],
    corrupt_video: ["broken.mp4: cannot be read as a video"],
    wrong_sizes: ["zz.png: is (24, 24), expected (16, 16) as the first frame is"],
    truncated: ["cut.webp"],
}


def train(data, model, out, *more):
    return main(["train", "motion-lora", str(data), "--base", str(model), "--out", str(out), *FEW, *more])


@pytest.mark.parametrize("make", TABLE, ids=lambda make: make.__name__)
def test_bad_data_is_named_and_with_good_data_beside_it_skipped(make, base, tmp_path, capsys):  # noqa: F811
    make(tmp_path / "data")
    assert train(tmp_path / "data", base, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert all(part in error for part in TABLE[make]) and "Traceback" not in error
    write_video(tmp_path / "data" / "good.webp", frames(4))
    assert train(tmp_path / "data", base, tmp_path / "out", "--steps", "1") == 0
    said = capsys.readouterr()
    assert (make is empty) == ("skipped" not in said.err)
    assert "wrote" in said.out


def test_clips_without_captions_are_trained_on_with_the_empty_prompt(base, tmp_path):  # noqa: F811
    write_video(tmp_path / "data" / "good.webp", frames(4))
    assert train(tmp_path / "data", base, tmp_path / "out", "--drop-prompt", "0") == 0


def test_clips_of_several_sizes_are_trained_on_in_batches_of_one(base, tmp_path):  # noqa: F811
    write_video(tmp_path / "data" / "square.webp", frames(4))
    write_video(tmp_path / "data" / "wide.webp", frames(4, 32)[:, :16])
    assert train(tmp_path / "data", base, tmp_path / "out", "--size", "32x16", "--batch", "2") == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "losses.jsonl").read_text().splitlines()]
    assert len(rows) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_without_room_is_one_sentence_and_leaves_the_last_good_checkpoint(base, tmp_path):  # noqa: F811
    resource = pytest.importorskip("resource")
    write_video(tmp_path / "data" / "good.webp", frames(4))
    command = [sys.executable, "-m", "unet_motion", "train", "motion-module", str(tmp_path / "data"), "--base",
               str(base), "--out", str(tmp_path / "out"), *FEW]  # fmt: skip

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=little_room)
    assert done.returncode == 2, done.stderr
    assert "checkpoint.pt" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / OUTPUT).exists()
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
