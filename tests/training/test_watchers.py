"""What is shown of a run, the optimizers by name, and several processes: none of it changes what is learned."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from tests.training.test_trainer import PLAIN, ROOT, different, everything, losses, tiny_unet, trainer, write_clips
from unet_motion.training import trainer as motion_loop
from unet_motion.training.optimizers import make_optimizer, optimizer_names
from unet_motion.training.recipe import MotionRecipe
from unet_motion.training.watchers.loss_plot import SIZE, LossPlot, loss_plot, read_losses, smoothed
from unet_motion.training.watchers.validation import Validation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data"))


def test_a_watched_run_learns_bit_for_bit_what_an_unwatched_one_does(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from unet_motion.training.watchers.tensorboard import TensorBoard

    unwatched = trainer(data, tmp_path / "unwatched")
    unwatched.run()
    run = trainer(data, tmp_path / "watched")
    text, empty = run.clips.texts[0], run.clips.empty_text()
    shown = Validation(tmp_path / "clips", 3, [text, empty], empty, (4, 4, 4, 4), steps=2)
    run.watchers += [shown, LossPlot(), TensorBoard(tmp_path / "board")]
    run.run()
    assert different(everything(run), everything(unwatched)) == []
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == [f"step-{step:06}-{number}.safetensors" for step in (3, 6, 7) for number in (0, 1)]
    last = load_file(tmp_path / "clips" / "step-000007-0.safetensors")["latents"]
    assert last.shape == (4, 4, 4, 4) and torch.isfinite(last).all()
    with run.averaged():
        assert torch.equal(shown.sample(run, text, 0), last)
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    rows = losses(tmp_path / "watched")
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [
        (row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows
    ]
    with Image.open(tmp_path / "watched" / "loss.png") as picture:
        assert picture.size == SIZE and len(picture.getcolors(1 << 20)) > 3


def test_the_plot_shows_where_the_loss_is(tmp_path):
    falling = [10.0 ** (-i / 50) for i in range(101)]
    colour = (31, 95, 191)  # of the mean
    pixels = loss_plot(falling, 101).load()
    places = {x: [y for y in range(SIZE[1]) if pixels[x, y] == colour] for x in (100, 500, 900)}
    heights = [sum(ys) / len(ys) for ys in places.values()]
    assert heights == sorted(heights) and heights[2] - heights[0] > 250
    # Above the highest line there are the words alone, as Pillow draws them.
    words = Image.new("RGB", (SIZE[0], 24), pixels[0, 0])
    ImageDraw.Draw(words).text((80, 4), "loss, and its mean over the last twentieth of 101 steps", fill=(51, 51, 51))
    assert np.array_equal(np.asarray(loss_plot(falling, 101))[:20], np.asarray(words)[:20])
    assert smoothed([1.0, 2.0, 3.0, 4.0], 0.5) == [1.0, 1.5, 2.5, 3.5]
    with pytest.raises(ValueError, match="no losses"):
        loss_plot(read_losses(tmp_path / "none"), 5)


@pytest.mark.parametrize(
    ("name", "options"), [("SGD", (("momentum", 0.9), ("nesterov", True))), ("RAdam", ()), ("Adafactor", ())]
)
def test_any_optimizer_takes_its_step_and_goes_on_after_a_kill(name, options, data, tmp_path):
    recipe = dataclasses.replace(PLAIN, optimizer=name, optimizer_options=options, save_every=2, steps=3)
    unbroken, killed = trainer(data, tmp_path / "one", recipe), trainer(data, tmp_path / "two", recipe)
    assert type(unbroken.optimizer).__name__ == name
    before = everything(unbroken)
    unbroken.run()
    assert any(not torch.equal(before[k], v) for k, v in everything(unbroken).items() if k in before)
    for _ in range(3):
        killed.train_step()
    again = trainer(data, tmp_path / "two", recipe)
    assert again.step == 2
    again.run()
    assert different(everything(again), everything(unbroken)) == []


def test_an_optimizer_that_is_not_for_this_loop_or_an_argument_that_is_not_its_own_is_named():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    assert {"AdamW", "SGD", "Adagrad", "NAdam"} <= set(optimizer_names())
    for wrong in ("LBFGS", "adamw", "SparseAdam"):
        with pytest.raises(ValueError, match=f"`optimizer` is '{wrong}', expected one of .*AdamW"):
            make_optimizer(wrong, parameters, 1e-3, 0.0)
    with pytest.raises(ValueError, match="'momentum', which AdamW does not take"):
        make_optimizer("AdamW", parameters, 1e-3, 0.0, [("momentum", 0.9)])
    with pytest.raises(ValueError, match="`optimizer` SGD cannot be made .*momentum"):
        make_optimizer("SGD", parameters, 1e-3, 0.0, [("momentum", -1.0)])


def test_the_rate_falls_straight_where_it_should():
    recipe = MotionRecipe(steps=12, warmup=4, learning_rate=1.0, schedule="linear")
    assert [recipe.rate(i) for i in (3, 4, 6, 8, 12)] == pytest.approx([0.8, 1.0, 0.75, 0.5, 0.0])


def test_two_processes_follow_one_with_the_double_batch(tmp_path):
    pytest.importorskip("accelerate")
    data = write_clips(tmp_path / "data", count=4)
    tiny_unet().save_pretrained(tmp_path / "unet")
    command = ["train", "motion-module", str(data), "--base", str(tmp_path / "unet"), "--frames", "4", "--steps", "4",
               "--lr", "3e-3", "--warmup", "0", "--accumulate", "2", "--ema", "0.9", "--save-every", "2",
               "--quiet"]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, words in (
        ("one", [sys.executable, "-m", "unet_motion", *command, "--batch", "2"]),
        ("two", [*launch, "-m", "unet_motion", *command, "--batch", "1", "--accelerate", "--device", "cpu"]),
    ):
        done = subprocess.run(
            [*words, "--out", str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote") == 1
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert [row["step"] for row in two] == [0, 1, 2, 3]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)
    files = [load_file(tmp_path / name / "motion_module.safetensors") for name in ("one", "two")]
    for name in files[0]:
        torch.testing.assert_close(files[1][name], files[0][name], rtol=0, atol=2e-4)
    identity = [motion_loop.load_state(tmp_path / name / "checkpoint.pt")["identity"] for name in ("one", "two")]
    assert identity[0] == identity[1], "a run of two processes goes on in one with the double batch"


def test_a_loss_that_is_not_finite_in_one_process_stops_both(tmp_path):
    pytest.importorskip("accelerate")
    data = write_clips(tmp_path / "data", count=2, bad=[1])
    tiny_unet().save_pretrained(tmp_path / "unet")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "unet_motion", "train", "motion-module", str(data), "--base", str(tmp_path / "unet"), "--frames", "4",
         "--steps", "20", "--batch", "1", "--quiet", "--accelerate", "--device", "cpu", "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("the loss is nan at step") == 1 and "clip1.safetensors" in done.stderr
    assert len(json.dumps(losses(tmp_path / "out"))) < 3000
    assert Path(tmp_path / "out").is_dir()
